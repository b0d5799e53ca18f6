"""Rollouts on a Ray of two workers: what one process makes, though a worker dies; and a cluster that is lost."""

import json
import os
import pickle
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from tests.train import pair_data
from tests.train.cluster_tools import DEATH, scripted_tools
from tests.train.test_pairs_job import job
from train.rollout import cluster
from train.rollout.cluster import Blocks
from train.rollout.cluster_worker import Worker
from train.rollout.config import ClusterConfig, RolloutConfig
from train.rollout.driver import Tools
from train.rollout.errors import EngineError, RolloutConfigError
from train.rollout.progress import Finished
from train.rollout.prompts import PromptsConfig, load_prompts
from train.rollout.report import read_rollouts
from train.rollout.run import run
from train.rollout.work import OpenTools, made_of, work_of

TOPICS = ("bread", "a garden", "the sea", "a letter", "trains", "cities", "water", "light", "words")


def config(folder: Path, **changes: Any) -> RolloutConfig:
    prompts = folder / "prompts.jsonl"
    rows = [{"prompt": f"HARM with {topic}", "label": "harmful", "family": topic} for topic in TOPICS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values: dict[str, Any] = {
        "model": {"name": "scripted"},
        "engine": {"block": 2, "lanes": 2},
        "prompts": {"source": str(prompts)},
        "policy": {"max_interventions": 2},
        "triggers": {"branches": 3},
        "samples": 2,
    }
    return RolloutConfig.model_validate(values | changes)


def pairs(folder: Path, tokenizer: str, rollouts: Path) -> list[bytes]:
    folder.mkdir()
    code, told = job(folder, tokenizer, list(read_rollouts(rollouts)))
    assert code == 0, told
    return [(folder / "out" / name).read_bytes() for name in ("pairs.jsonl", "validation.jsonl", "dropped.jsonl")]


@pytest.mark.slow  # Ray itself takes ten seconds to come up
@pytest.mark.timeout(600)
def test_two_workers_one_of_which_dies_make_the_rollouts_and_pairs_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = run(config(tmp_path), tmp_path / "here", scripted_tools)
    death = tmp_path / "death"
    monkeypatch.setenv(DEATH, str(death))
    there = run(config(tmp_path, cluster={"workers": 2}), tmp_path / "there", scripted_tools)
    assert death.exists(), "no worker died"
    assert (tmp_path / "there/rollouts.jsonl").read_bytes() == (tmp_path / "here/rollouts.jsonl").read_bytes()
    for name in ("sha256", "prompts", "generations", "tokens", "halted"):
        assert there[name] == here[name]
    assert sum(own["prompts"] for own in there["workers"].values()) == len(TOPICS)
    assert sum(own["tokens"] for own in there["workers"].values()) == there["tokens"]
    assert "workers" not in here
    tokenizer = tmp_path / "tokenizer"
    pair_data.VOCABULARY.tokenizer.save_pretrained(tokenizer)
    made = pairs(tmp_path / "pairs-there", str(tokenizer), tmp_path / "there/rollouts.jsonl")
    assert made == pairs(tmp_path / "pairs-here", str(tokenizer), tmp_path / "here/rollouts.jsonl")
    assert made[0].count(b"\n") > 5


def lost_after_two(
    sink: Connection, config: RolloutConfig, cluster: ClusterConfig, blocks: Blocks, opened: OpenTools
) -> None:
    """Two blocks, one of them twice, then the end that Ray gives a process whose head node is gone."""
    work = work_of(config, opened(config))
    for block in (blocks[2], blocks[0], blocks[2]):
        sink.send(Finished(made_of(work(block)), "worker", 1.0))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(300)
def test_a_lost_cluster_ends_the_job_with_what_is_done_and_it_goes_on_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(cluster, "drive", lost_after_two)
        with pytest.raises(EngineError, match=r"lost \(.* ended with SIGKILL.*start the job again"):
            run(config(tmp_path, cluster={"workers": 2}), tmp_path / "out", scripted_tools)
    assert (tmp_path / "out/rollouts.jsonl.part").read_bytes().count(b"\n") == 4
    report = run(config(tmp_path), tmp_path / "out", scripted_tools)
    assert report["sha256"] == run(config(tmp_path), tmp_path / "whole", scripted_tools)["sha256"]


def broken_tools(config: RolloutConfig) -> Tools:
    raise RolloutConfigError("detector.artifact: none")


def test_an_error_of_a_worker_travels_as_a_result(tmp_path: Path) -> None:
    rows = load_prompts(PromptsConfig(source=config(tmp_path).prompts.source))  # type: ignore[union-attr]  # it has some
    answer = Worker(config(tmp_path), broken_tools)({"block": [pickle.dumps(rows)]})
    [error] = map(pickle.loads, answer["finished"])
    assert isinstance(error, RolloutConfigError)
    assert str(error) == "detector.artifact: none"


def test_without_ray_the_message_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(RolloutConfigError, match="install the extra `ray`"):
        run(config(tmp_path, cluster={}), tmp_path / "out", scripted_tools)
