"""The job `steer train grpo` on a model of toy size: it earns more, resumes, keeps its budget, says what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from steer.cli import app
from tests.conftest import ROOT
from tests.train import parity_judge
from tests.train.interrupt import Interrupted, interrupt_at
from tests.train.test_ipo_job import losses_of, write_toml
from tests.train.tiny_reasoner import END_THINK, EOS, THINK, ids_of, one_thread, save_reasoner, tiny_tokenizer
from train.grpo.config import GrpoConfig, RewardConfig
from train.grpo.rewards import Turn, reward, shares, turn_of
from train.grpo.run import run
from train.ipo.config import load_config
from train.ipo.errors import IpoConfigError, IpoDataError, OutOfMemory
from train.judges.base import JudgeVerdict
from train.judges.errors import JudgeConfigError, JudgeDown
from train.rollout.vocabulary import ThinkMarkers, Vocabulary

__all__ = ["one_thread"]  # a fixture that every test here uses

SAFE = {"unsafe_reasoning": False, "unsafe_answer": False}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo")
    save_reasoner(folder / "model")
    rows = [{"id": f"p{n}", "prompt": f"Q{n}", "label": "benign"} for n in range(8)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(autouse=True)
def fresh_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity_judge, "asked", 0)
    monkeypatch.setattr(parity_judge, "down_after", None)


def settings(home: Path, **changes: Any) -> dict[str, Any]:
    config: dict[str, Any] = {
        "model": str(home / "model"),
        "prompts": {"source": str(home / "prompts.jsonl")},
        "judge": {"spec": "tests.train.parity_judge:judge"},
        "lora": {"rank": 4, "alpha": 8},
        "train": {
            "batch_size": 16,
            "device": "cpu",
            "threads": 1,
            "checkpoint_every": 2,
            "gradient_checkpointing": False,
        },
        "grpo": {"generations": 8, "max_new_tokens": 3, "epochs": 1, "learning_rate": 1e-2},
    }
    for name, value in changes.items():
        section, _, key = name.partition("__")
        config[section] = {**config.get(section, {}), key: value} if key else value
    return config


def config_of(home: Path, **changes: Any) -> GrpoConfig:
    return GrpoConfig.model_validate(settings(home, **changes))


def test_the_reward_rises_and_the_adapter_is_published_as_ipos_is(home: Path, tmp_path: Path) -> None:
    grpo = {"generations": 8, "max_new_tokens": 2, "epochs": 20, "learning_rate": 5e-2}
    report = run(config_of(home, grpo=grpo, train__batch_size=64), tmp_path)
    [stage] = report["stages"]
    assert (report["job"], stage["prompts"], stage["updates"], stage["stopped_by"]) == ("grpo", 8, 20, None)
    assert stage["reward"]["last"] > stage["reward"]["first"] + 0.2
    assert stage["reward"]["last"] == pytest.approx(stage["helped"]["last"])
    assert stage["tokens"] > 20 * 64 * 3
    assert report["prompts"]["labels"] == {"benign": 8}
    assert report["judge_cost"]["asked"] > 0
    manifest = json.loads((tmp_path / "adapter" / "manifest.json").read_text())
    assert (manifest["job"], manifest["kind"]) == ("grpo", "lora")
    assert manifest["parents"]["prompts"]["sha256"] == report["prompts"]["sha256"]
    assert manifest["parents"]["judge"] == "function:tests.train.parity_judge:judge"
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "model"), tmp_path / "adapter")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_goes_on_to_the_same_rewards_and_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(config_of(home), tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            run(config_of(home), tmp_path / "killed")
    resumed = run(config_of(home), tmp_path / "killed")
    assert resumed["stages"][0]["resumed_from"] == "checkpoint-2"
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert resumed["published"]["files"] == whole["published"]["files"]
    assert resumed["stages"][0]["tokens"] == whole["stages"][0]["tokens"]


def test_a_budget_of_seconds_ends_training_after_an_update_and_publishes(home: Path, tmp_path: Path) -> None:
    report = run(config_of(home, grpo__max_seconds=0.001), tmp_path)
    [stage] = report["stages"]
    assert (stage["updates"], stage["stopped_by"]) == (1, "max_seconds")
    assert (tmp_path / "adapter" / "manifest.json").exists()


def test_a_dead_judge_ends_the_job_and_the_next_start_asks_nothing_twice(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity_judge, "down_after", 40)
    with pytest.raises(JudgeDown, match="start the job again"):
        run(config_of(home), tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()
    assert not (tmp_path / "out" / "report.json").exists()
    before = parity_judge.asked
    monkeypatch.setattr(parity_judge, "down_after", None)
    report = run(config_of(home), tmp_path / "out")
    assert report["stages"][0]["resumed_from"] == "checkpoint-2"
    assert parity_judge.asked - before == report["judge_cost"]["asked"] <= 2 * 16
    assert report["stages"][0]["updates"] == 4


def test_running_out_of_memory_names_the_length_of_completions(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 1, torch.OutOfMemoryError)
    with pytest.raises(OutOfMemory, match=r"train\.batch_size \(now 16\).*lower grpo\.max_new_tokens"):
        run(config_of(home), tmp_path)


def test_turns_that_the_judge_cannot_tell_teach_nothing_and_are_in_no_log(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    report = run(config_of(home, judge={"spec": "tests.train.parity_judge:unsure"}, grpo__beta=0.0), tmp_path)
    [stage] = report["stages"]
    assert stage["unjudged"] == {"first": 1.0, "last": 1.0}
    assert "reward" not in stage
    assert losses_of(tmp_path) == [0.0] * 4
    assert "'completion'" not in caplog.text


@pytest.mark.parametrize(
    ("label", "verdict", "earned"),
    [
        ("harmful", {"unsafe_reasoning": True, "unsafe_answer": False, "refused": True}, 0),
        ("harmful", {**SAFE, "refused": True}, 1),
        ("harmful", {**SAFE, "refused": False, "helped": True}, 1),
        ("harmful", {**SAFE, "refused": False, "helped": False}, 0),
        ("benign", {**SAFE, "refused": False, "helped": True}, 1),
        ("benign", {**SAFE, "refused": True, "helped": False}, 0),
        ("benign", {"unsafe_reasoning": False, "unsafe_answer": True, "helped": True}, 0),
        ("harmful", {"refused": True}, None),
        ("benign", {**SAFE}, None),
        (None, {**SAFE, "refused": True}, None),
        (None, {**SAFE, "refused": True, "harmful_request": True}, 1),
        (None, {**SAFE, "refused": True, "harmful_request": False}, 0),
        ("harmful", {**SAFE, "refused": True, "harmful_request": False}, 1),
    ],
)
def test_what_a_turn_earns(label: str | None, verdict: dict[str, bool], earned: float | None) -> None:
    assert reward(JudgeVerdict(**verdict), label, RewardConfig()) == earned


def test_every_earning_can_be_set() -> None:
    config = RewardConfig(unsafe=-1, safe=2, helped=3, over_refusal=-2, neither=0.5)
    cases = [
        ("harmful", {"unsafe_answer": True}, -1),
        ("harmful", {**SAFE, "refused": True}, 2),
        ("benign", {**SAFE, "helped": True, "refused": False}, 3),
        ("benign", {**SAFE, "refused": True}, -2),
        ("benign", {**SAFE, "refused": False, "helped": False}, 0.5),
    ]
    for label, verdict, earned in cases:
        assert reward(JudgeVerdict(**verdict), label, config) == earned


def test_shares_are_of_their_own_prompts_and_none_is_made_of_nothing() -> None:
    verdicts = [JudgeVerdict(**SAFE, refused=True), JudgeVerdict(**SAFE, refused=True, helped=False)]
    assert shares(verdicts, ["harmful", "benign"]) == {"unsafe": 0, "helped": 0, "over_refused": 1, "unjudged": 0}
    assert shares(verdicts, ["harmful", "harmful"]) == {"unsafe": 0, "unjudged": 0}


def test_a_completion_is_split_at_the_closing_marker_and_loses_its_end() -> None:
    vocabulary = Vocabulary("tiny", tiny_tokenizer(), ThinkMarkers())
    said = [*ids_of("Hm."), END_THINK, *ids_of("No."), EOS]
    assert turn_of(vocabulary, [*ids_of("Q"), THINK], said) == Turn("Hm.", "No.")
    assert turn_of(vocabulary, [*ids_of("Q"), THINK], ids_of("Hm, so")) == Turn("Hm, so", "")
    assert turn_of(vocabulary, ids_of("Q"), [THINK, *said]) == Turn("Hm.", "No.")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"judge": {"spec": "nobody"}}, JudgeConfigError, "judge 'nobody'"),
        ({"grpo__max_new_tokens": 600}, IpoDataError, "8 leave no room for grpo.max_new_tokens = 600"),
        ({"prompts__limit": 1}, IpoDataError, "1 prompts are fewer than the 2 of one update"),
        ({"think_markers": ["[THINK]", "[/THINK]"]}, IpoConfigError, "chat template does not know"),
    ],
)
def test_bad_input_ends_with_a_clear_message_and_nothing_published(
    home: Path, tmp_path: Path, changes: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        run(config_of(home, **changes), tmp_path / "out")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("out/adapter*"))


def test_groups_that_an_update_would_split_are_refused(home: Path) -> None:
    with pytest.raises(ValueError, match=r"20 completions an update is no multiple of grpo\.generations = 8"):
        config_of(home, train__batch_size=20)


def test_the_command_tells_wrong_use_from_failure(home: Path, tmp_path: Path) -> None:
    config = tmp_path / "grpo.toml"
    command = ["train", "grpo", "--config", str(config), "--out", str(tmp_path / "out")]
    write_toml(config, settings(home, judge={"spec": "nobody"}))
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "judge 'nobody'" in done.stderr) == (2, True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text('{"key": "of another job"}')
    write_toml(config, settings(home))
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "another config" in done.stderr) == (2, True)
    write_toml(config, settings(home, grpo__max_new_tokens=600))
    done = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "other")])
    assert (done.exit_code, "grpo.max_new_tokens = 600" in done.stderr) == (1, True)


@pytest.mark.parametrize("path", sorted((ROOT / "train" / "configs").glob("grpo-*.toml")), ids=lambda p: p.stem)
def test_the_shipped_configs_are_valid(path: Path) -> None:
    assert load_config(path, GrpoConfig).grpo.beta > 0
