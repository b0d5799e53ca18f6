"""The jobs `steer train sft` and `steer train dpo`: what differs from IPO, and that the rest is IPO's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from typer.testing import CliRunner

from steer.cli import app
from tests.conftest import ROOT
from tests.train.interrupt import Interrupted, interrupt_at
from tests.train.test_ipo_job import losses_of, poisoned_model, poisoned_pairs, write_toml
from tests.train.tiny_reasoner import job_config, one_thread
from train.baselines import dpo, sft
from train.baselines.config import DpoConfig, SftConfig
from train.baselines.dpo import across
from train.baselines.sft import labelled
from train.grpo.config import GrpoConfig, GrpoSettings, RewardConfig
from train.ipo import run as ipo
from train.ipo.config import DataConfig, IpoConfig, LoraSettings, LossConfig, StageConfig, TrainSettings, load_config
from train.ipo.encoding import Encoded
from train.ipo.errors import OutOfMemory, TrainingDiverged
from train.ipo.publish import ADAPTER

pytestmark = pytest.mark.timeout(600)

__all__ = ["one_thread"]  # a fixture that every test here uses


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    job_config(folder)
    return folder


def sft_config(home: Path, **changes: Any) -> SftConfig:
    return SftConfig.model_validate(job_config(home, **changes))


def dpo_config(home: Path, **changes: Any) -> DpoConfig:
    return DpoConfig.model_validate(job_config(home, **changes))


def test_sft_learns_the_chosen_sides_and_publishes_as_ipo_does(home: Path, tmp_path: Path) -> None:
    report = sft.run(sft_config(home), tmp_path)
    first, second = report["stages"]
    assert (report["job"], first["pairs"], second["pairs"]) == ("sft", 12, 16)
    assert first["loss"]["last"] < 0.9 * first["loss"]["first"]
    assert first["token_accuracy"]["last"] > first["token_accuracy"]["first"]
    assert second["held_out"]["loss"] < first["loss"]["first"]
    assert "margin" not in first
    assert first["tokens"] > 0
    manifest = json.loads((tmp_path / "adapter" / "manifest.json").read_text())
    assert manifest == report["published"]
    assert (manifest["job"], manifest["kind"]) == ("sft", "lora")
    assert manifest["parents"]["pairs"]["sha256"] == report["pairs"]["sha256"]
    assert (tmp_path / "adapter" / ADAPTER).exists()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sft.run(sft_config(home), tmp_path) == report, "a finished job is not run again"


def test_sft_trains_the_chosen_side_alone_everything_before_is_conditioning() -> None:
    assert labelled({"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [9]}) == {
        "input_ids": [1, 2, 3, 4],
        "labels": [-100, -100, 3, 4],
    }


def test_the_span_says_whether_kept_reasoning_is_trained(home: Path, tmp_path: Path) -> None:
    """Loss before any update: over the chosen sides, or over kept reasoning and chosen sides."""
    first = {}
    for span in ("divergence", "response"):
        changes: dict[str, Any] = {"span": span, "stage1__epochs": 0.25, "stage2__epochs": 0}
        sft.run(sft_config(home, **changes), tmp_path / span)
        first[span] = losses_of(tmp_path / span)[0]
    assert first["divergence"] != pytest.approx(first["response"], rel=1e-3)


@pytest.mark.parametrize("job", ["sft", "dpo"])
def test_an_interrupted_baseline_goes_on_to_the_same_losses_and_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str
) -> None:
    settings: dict[str, Any] = {"stage1__epochs": 2, "stage2__epochs": 0, "train__checkpoint_every": 2}

    def run(out: Path) -> dict[str, Any]:
        if job == "sft":
            return sft.run(sft_config(home, **settings), out)
        return dpo.run(dpo_config(home, **settings), out)

    whole = run(tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            run(tmp_path / "killed")
    assert not (tmp_path / "killed" / "adapter").exists()
    resumed = run(tmp_path / "killed")
    assert resumed["stages"][0]["resumed_from"] == "checkpoint-2"
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert resumed["published"]["files"] == whole["published"]["files"]
    assert resumed["stages"][0]["tokens"] == whole["stages"][0]["tokens"]


def test_on_the_sides_of_one_divergence_full_dpo_differs_from_ipo_by_its_sft_term_alone(
    home: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"stage1__epochs": 0.7, "stage2__epochs": 0}
    for weight, are_alike in ((0.0, True), (0.2, False)):
        folder = tmp_path / str(weight)
        settings["loss"] = {"sft_weight": weight}
        dpo.run(dpo_config(home, **settings, pairing="same"), folder / "dpo")
        ipo.run(IpoConfig.model_validate(job_config(home, **settings)), folder / "ipo")
        assert (losses_of(folder / "dpo") == pytest.approx(losses_of(folder / "ipo"), rel=1e-4)) is are_alike


def test_across_gives_a_chosen_response_the_rejected_one_of_its_prompt_that_shares_least() -> None:
    rows = [
        {"prompt_ids": [1], "chosen_ids": [5, 6, 7], "rejected_ids": [5, 6, 8]},
        {"prompt_ids": [1], "chosen_ids": [5, 9], "rejected_ids": [5, 4, 4]},
        {"prompt_ids": [2], "chosen_ids": [5, 3], "rejected_ids": [5, 2]},
        {"prompt_ids": [1], "chosen_ids": [6], "rejected_ids": [5]},
    ]
    made = across(Encoded(rows, {"too_long": 1}))
    # the last row's rejected side shares least with the first one's chosen side, but is all of what they share
    assert [row["rejected_ids"] for row in made.rows] == [[5, 4, 4], [5, 4, 4], [5, 2], [5]]
    assert (made.skipped, dict(made.counted)) == ({"too_long": 1}, {"paired_across": 1})
    assert [row["chosen_ids"] for row in made.rows] == [row["chosen_ids"] for row in rows]


def test_full_dpo_reports_how_many_responses_were_paired_across(home: Path, tmp_path: Path) -> None:
    report = dpo.run(dpo_config(home, stage1__epochs=1, stage2__epochs=0), tmp_path)
    assert report["job"] == "dpo"
    assert report["stages"][0]["paired_across"] == 0  # each of these prompts has one divergence
    assert report["published"]["job"] == "dpo"


def test_a_loss_that_is_not_a_number_stops_sft_and_publishes_nothing(tmp_path: Path) -> None:
    settings = {"data__pairs": [str(poisoned_pairs(tmp_path, side="chosen"))], "train__batch_size": 1}
    config = sft_config(tmp_path, model=str(poisoned_model(tmp_path)), **settings, stage1__epochs=1, stage2__epochs=0)
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step \d+; the weights were not updated"):
        sft.run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "adapter").exists()


def test_running_out_of_memory_in_a_step_names_the_settings_that_help(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at(monkeypatch, 2, torch.OutOfMemoryError)
    with pytest.raises(OutOfMemory) as caught:
        sft.run(sft_config(home, train__gradient_checkpointing=False), tmp_path)
    for name in ("train.batch_size (now 4)", "train.gradient_checkpointing = true", "data.max_length"):
        assert name in str(caught.value)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("job", ["sft", "dpo"])
def test_the_commands_run_and_name_what_is_wrong(home: Path, tmp_path: Path, job: str) -> None:
    config = tmp_path / "job.toml"
    command = ["train", job, "--config", str(config), "--out", str(tmp_path / "out")]
    write_toml(config, job_config(home, stage1__epochs=0.25, stage2__epochs=0))
    done = CliRunner().invoke(app, command)
    assert (done.exit_code, "report:" in done.output) == (0, True)
    write_toml(config, job_config(home, seed=2))
    assert CliRunner().invoke(app, command).exit_code == 2, "another config in the same folder"
    write_toml(config, job_config(home, data__pairs=["nowhere.jsonl"]))
    wrong = CliRunner().invoke(app, [*command[:-1], str(tmp_path / "other")])
    assert (wrong.exit_code, "nowhere.jsonl" in wrong.stderr) == (1, True)
    write_toml(config, job_config(home, spam=1))
    wrong = CliRunner().invoke(app, command)
    assert (wrong.exit_code, "spam: Extra inputs" in wrong.stderr) == (2, True)


@pytest.mark.parametrize("path", sorted((ROOT / "train" / "configs").glob("[sd][fp][to]-*.toml")), ids=lambda p: p.stem)
def test_the_shipped_configs_are_valid(path: Path) -> None:
    kinds: dict[str, type[SftConfig | DpoConfig]] = {"sft": SftConfig, "dpo": DpoConfig}
    config = load_config(path, kinds[path.stem.partition("-")[0]])
    assert config.stage2.epochs


def test_every_field_of_the_configs_is_in_the_docs() -> None:
    text = (ROOT / "docs" / "ipo.md").read_text(encoding="utf-8")
    parts: list[type[BaseModel]] = [SftConfig, DpoConfig, GrpoConfig, DataConfig, LoraSettings, LossConfig]
    parts += [StageConfig, TrainSettings, RewardConfig, GrpoSettings]
    tables = {"data", "lora", "loss", "stage1", "stage2", "train", "prompts", "judge", "reward", "grpo"}
    fields = {name for part in parts for name in part.model_fields}
    assert not [name for name in sorted(fields - tables) if f"`{name}`" not in text]
    assert not [name for name in sorted(tables) if f"`[{name}]`" not in text]
