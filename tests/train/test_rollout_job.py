"""The rollout job on the organism: end to end, killed and resumed, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from steer.cli import app
from tests.conftest import ROOT
from tests.patience import PATIENCE_S
from train.rollout.config import RolloutConfig
from train.rollout.errors import RolloutConfigError
from train.rollout.prompts import PromptsConfig, load_prompts
from train.rollout.report import read_rollouts
from train.rollout.run import run
from train.rollout.store import LineStore

ORGANISM = str(ROOT / "proxy/embedded/organism")
TOML = f"""
max_tokens = 110
seed = 3
[model]
name = "{ORGANISM}"
[engine]
lanes = 1
block = 2
[engine.local]
device = "cpu"
threads = 1
[prompts]
source = "organism:train"
limit = 5
[policy]
max_interventions = 1
[triggers]
branches = 1
"""


def config_file(folder: Path, text: str = TOML) -> Path:
    path = folder / "rollout.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.timeout(600)
def test_a_job_killed_in_the_middle_goes_on_and_loses_or_doubles_nothing(tmp_path: Path) -> None:
    config, killed, whole = config_file(tmp_path), tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "steer.cli", "train", "rollout", "--config", str(config), "--out", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    part, until = killed / "rollouts.jsonl.part", time.monotonic() + PATIENCE_S
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "report.json").exists()
    before = part.read_bytes()
    assert 0 < before.count(b"\n") < 5
    part.write_bytes(before + b'{"id": "torn')  # a kill can also fall into a write
    result = CliRunner().invoke(app, ["train", "rollout", "--config", str(config), "--out", str(killed)])
    assert result.exit_code == 0, result.output
    reference = run(RolloutConfig.model_validate(_toml(config)), whole)
    assert (killed / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()
    assert not part.exists()
    report = json.loads((killed / "report.json").read_text())
    for name in ("prompts", "generations", "tokens", "halted", "sha256"):
        assert report[name] == reference[name]
    assert report["prompts"] == 5
    assert report["halted"]["harmful"]["share"] > 0.3
    assert report["tokens_per_second"] > 0
    assert (whole / "rollout.png").stat().st_size > 1000
    _check_traces(whole)
    again = run(RolloutConfig.model_validate(_toml(config)), whole)
    assert again == reference, "a finished job is not run again"
    with pytest.raises(RolloutConfigError, match="another config or input"):
        run(RolloutConfig.model_validate(_toml(config) | {"seed": 4}), whole)


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(path.read_text())


def _check_traces(out: Path) -> None:
    """What must hold of every trace, by its ids alone."""
    for rollout in read_rollouts(out / "rollouts.jsonl"):
        base = rollout.samples[0].base
        for branch in rollout.samples[0].branches:
            assert base.cut is not None
            ids = [id for span in branch.spans for id in span.token_ids]
            kept = base.token_ids[: base.cut.kept_tokens]
            assert ids[: len(kept) + len(branch.steps[0].trigger.token_ids)] == kept + branch.steps[0].trigger.token_ids
            assert branch.outcome == "refused" or branch.spans[-1].writer == "model"


def test_wrong_configs_and_prompts_end_with_the_field_and_the_fix(tmp_path: Path) -> None:
    def outcome(text: str) -> tuple[int, str]:
        config = config_file(tmp_path, text)
        result = CliRunner().invoke(app, ["train", "rollout", "--config", str(config), "--out", str(tmp_path / "out")])
        return result.exit_code, result.stderr

    code, told = outcome(TOML + "beams = 3\n")
    assert (code, "triggers.beams" in told) == (2, True)
    code, told = outcome(TOML.replace("organism:train", str(tmp_path / "none.jsonl")))
    assert (code, "none.jsonl" in told) == (2, True)
    code, told = outcome(TOML.replace("organism:train", "organism:nowhere"))
    assert (code, "held_out" in told) == (2, True)
    assert not (tmp_path / "out" / "report.json").exists()


def test_prompts_are_read_from_lines_with_or_without_ids(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [{"prompt": "One", "label": "harmful"}, {"id": 7, "messages": [{"role": "user", "content": "Two"}]}]
    path.write_text("\n".join(json.dumps(row) for row in [*rows, rows[0]]) + "\n")
    one, two = load_prompts(PromptsConfig(source=str(path)))
    assert (one.label, two.id, two.label) == ("harmful", "7", None)
    assert one.messages == [{"role": "user", "content": "One"}]
    [only] = load_prompts(PromptsConfig(source=str(path), limit=1, label="benign"))
    assert only.label == "harmful"
    for line, message in (("{", "line 1: not JSON"), ('{"x": 1}', "prompt .* missing"), ("[]", "must be an object")):
        path.write_text(line + "\n")
        with pytest.raises(RolloutConfigError, match=message):
            load_prompts(PromptsConfig(source=str(path)))
    path.write_text('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}\n')
    with pytest.raises(RolloutConfigError, match="'a' occurs twice"):
        load_prompts(PromptsConfig(source=str(path)))


def test_organism_prompts_differ_and_stay_in_their_split() -> None:
    rows = load_prompts(PromptsConfig(source="organism:train", limit=300, benign="organism:train", benign_limit=50))
    assert len({row.id for row in rows}) == len(rows) == 350
    assert [row.label for row in rows].count("benign") == 50
    held_out = load_prompts(PromptsConfig(source="organism:held_out", limit=50))
    assert not {row.family for row in rows} & {row.family for row in held_out}


def test_a_store_keeps_whole_lines_and_drops_torn_ones(tmp_path: Path) -> None:
    store = LineStore(tmp_path, "x.jsonl")
    for id in ("b", "a"):
        store.append(id, json.dumps({"id": id}))
    with (tmp_path / "x.jsonl.part").open("ab") as part:
        part.write(b'{"id": "c"')
    again = LineStore(tmp_path, "x.jsonl")
    assert again.done == {"a", "b"}
    again.append("c", json.dumps({"id": "c"}))
    again.finish(["a", "b", "c"])
    assert [json.loads(line)["id"] for line in (tmp_path / "x.jsonl").read_text().splitlines()] == ["a", "b", "c"]
