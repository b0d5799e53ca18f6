"""The job `steer train ipo` on a model of toy size: it learns, resumes exactly, and stops with a clear message."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.train.tiny_reasoner import a_pair, a_side, job_config, one_thread, save_reasoner, write_pairs
from train.ipo.config import IpoConfig, load_config
from train.ipo.errors import IpoConfigError, IpoDataError, IpoError, OutOfMemory, PairRefused, TrainingDiverged
from train.ipo.guards import explained_memory_errors
from train.ipo.loop import COMPLETE
from train.ipo.outputs import file_digest
from train.ipo.publish import ADAPTER, check_finite
from train.ipo.run import main, run

pytestmark = pytest.mark.timeout(600)

__all__ = ["one_thread"]  # a fixture that every test here uses

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and pairs that the tests share; each has an output folder of its own."""
    folder = tmp_path_factory.mktemp("ipo")
    job_config(folder)
    return folder


@pytest.fixture(scope="module")
def finished(home: Path) -> tuple[Path, dict[str, Any]]:
    torch.set_num_threads(1)
    return home / "finished", run(config_of(home), home / "finished")


def config_of(home: Path, **changes: Any) -> IpoConfig:
    return IpoConfig.model_validate(job_config(home, **changes))


def losses_of(out: Path, stage: str = "stage-1") -> list[float]:
    return [entry["loss"] for entry in json.loads((out / stage / "stage.json").read_text())["history"]]


def test_two_stages_prefer_the_chosen_sides_and_report_what_it_cost(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    first, second = report["stages"]
    assert (first["pairs"], second["pairs"]) == (12, 16)
    assert first["loss"]["last"] < first["loss"]["first"]
    assert first["accuracy"]["last"] == 1.0
    assert first["margin"]["last"] > 1
    # the second stage starts from what the first has learned, against the same reference
    assert second["margin"]["first"] > 0.5 * first["margin"]["last"]
    assert all(stage["prefix_sharing"] and stage["peak_memory_bytes"] > 0 for stage in report["stages"])
    assert first["held_out"]["accuracy"] == 1.0
    assert second["held_out"]["margin"] > 1
    assert report["tokens"] == first["tokens"] + second["tokens"] > 1000
    assert report["seconds"] > 0
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((out / "report.json").read_text()) == report


def test_the_published_adapter_names_its_parents_and_changes_the_base(
    home: Path, finished: tuple[Path, dict[str, Any]]
) -> None:
    out, report = finished
    adapter = out / "adapter"
    assert sorted(p.name for p in adapter.iterdir()) == ["adapter_config.json", ADAPTER, "manifest.json"]
    manifest = json.loads((adapter / "manifest.json").read_text())
    assert manifest["parents"]["pairs"]["sha256"] == report["pairs"]["sha256"]
    assert manifest["parents"]["model"]["sha256"] == report["model"]["sha256"]
    assert manifest["files"][ADAPTER] == file_digest(adapter / ADAPTER)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(home / "model"), adapter)
    ids = torch.tensor([a_pair(1).prompt_token_ids])
    with torch.no_grad():
        tuned = model(ids).logits
        with model.disable_adapter():
            assert (tuned - model(ids).logits).abs().max() > 0.1


def test_a_finished_job_is_not_run_again(home: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    before = (out / "adapter" / ADAPTER).stat().st_mtime_ns
    assert run(config_of(home), out) == report
    assert (out / "adapter" / ADAPTER).stat().st_mtime_ns == before


def test_another_config_does_not_mix_with_what_is_there(home: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(IpoConfigError, match="another config, model or pairs; give another --out"):
        run(config_of(home, seed=2), finished[0])


def test_a_job_killed_mid_stage_goes_on_to_the_same_losses_and_the_same_adapter(home: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"stage1__epochs": 8, "stage2__epochs": 0, "train__checkpoint_every": 3}
    config = home / "killed.toml"
    write_toml(config, job_config(home, **settings))
    out = tmp_path / "killed"
    command = [sys.executable, "-W", "ignore", "-m", "train.ipo.run", "--config", str(config), "--out", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while not any(out.glob(f"stage-1/checkpoint-*/{COMPLETE}")):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (out / "stage-1" / "stage.json").exists()
    assert not (out / "adapter").exists()
    resumed = run(config_of(home, **settings), out)
    whole = run(config_of(home, **settings), tmp_path / "whole")
    assert resumed["stages"][0]["resumed_from"] is not None
    assert whole["stages"][0]["resumed_from"] is None
    assert losses_of(out) == losses_of(tmp_path / "whole")
    assert len(losses_of(out)) == 24
    assert resumed["published"]["files"] == whole["published"]["files"]
    assert resumed["stages"][0]["tokens"] == whole["stages"][0]["tokens"]
    assert not list(out.glob("stage-1/checkpoint-*"))


def test_all_weights_can_be_trained_against_the_base_in_both_stages(home: Path, tmp_path: Path) -> None:
    report = run(config_of(home, train__method="full", stage1__learning_rate=1e-3), tmp_path)
    assert report["published"]["kind"] == "full"
    first, second = report["stages"]
    assert second["margin"]["first"] > 0.5 * first["margin"]["last"] > 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")  # loads as any model, our attention forgotten
    assert model.config._attn_implementation == "sdpa"
    assert not (tmp_path / "model" / "training_args.bin").exists()
    assert (tmp_path / "model" / "tokenizer.json").exists()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_reference_scores_may_be_computed_once_before_training(home: Path, tmp_path: Path, method: str) -> None:
    # In full training the second stage starts from other weights than the reference's: it must not score with them.
    stages = ("stage-1", "stage-2") if method == "full" else ("stage-1",)
    settings = {"train__method": method, "stage1__epochs": 1, "stage2__epochs": 0.5 if len(stages) == 2 else 0}
    run(config_of(home, **settings), tmp_path / "live")
    run(config_of(home, **settings, train__precompute_reference=True), tmp_path / "before")
    for stage in stages:
        assert losses_of(tmp_path / "before", stage) == pytest.approx(losses_of(tmp_path / "live", stage), rel=1e-5)


def test_two_rows_and_shared_prefixes_give_the_same_curve(home: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"stage1__epochs": 2, "stage2__epochs": 0}
    shared = run(config_of(home, **settings), tmp_path / "shared")
    plain = run(config_of(home, **settings, train__attention="off"), tmp_path / "plain")
    assert shared["stages"][0]["prefix_sharing"]
    assert plain["stages"][0]["two_rows_because"] == "attention is set to off"
    assert losses_of(tmp_path / "shared") == pytest.approx(losses_of(tmp_path / "plain"), rel=1e-3)


def test_gradient_accumulation_counts_updates(home: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"train__batch_size": 2, "train__accumulation": 3, "stage1__epochs": 1}
    report = run(config_of(home, **settings, stage2__epochs=0), tmp_path)
    assert report["stages"][0]["updates"] == 2


def test_a_loss_that_is_not_a_number_stops_the_job_and_leaves_the_last_checkpoint(home: Path, tmp_path: Path) -> None:
    broken = poisoned_pairs(tmp_path)
    settings = {"data__pairs": [str(broken)], "model": str(poisoned_model(tmp_path)), "train__batch_size": 1}
    with pytest.raises(TrainingDiverged, match=r"loss is nan at step \d+; the weights were not updated"):
        run(config_of(home, **settings, stage1__epochs=1, stage2__epochs=0, train__checkpoint_every=1), tmp_path / "o")
    checkpoint = max((tmp_path / "o" / "stage-1").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    assert (checkpoint / COMPLETE).exists()
    check_finite(checkpoint)
    assert not (tmp_path / "o" / "adapter").exists()
    assert not (tmp_path / "o" / "report.json").exists()


def poisoned_model(folder: Path) -> Path:
    """One token's embedding is NaN: all is well until a pair holds it."""
    model = save_reasoner(folder / "poisoned")
    weights = load_file(model / "model.safetensors")
    weights["model.embed_tokens.weight"][a_side("@").token_ids[0]] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    return model


def poisoned_pairs(folder: Path, side: str = "rejected") -> Path:
    pairs = [a_pair(n) for n in range(6)]
    bad = a_side("Sure @") if side == "rejected" else a_side("Wait, @ is it safe?")
    return write_pairs(folder / "poisoned.jsonl", [*pairs, a_pair(7, **{side: bad})])


def test_weights_that_are_not_numbers_are_not_published(tmp_path: Path) -> None:
    save_file({"lora_A": torch.tensor([1.0, float("inf")])}, tmp_path / ADAPTER)
    with pytest.raises(TrainingDiverged, match="lora_A holds a NaN or an infinity"):
        check_finite(tmp_path)


def test_running_out_of_memory_names_the_settings_that_help() -> None:
    with pytest.raises(OutOfMemory) as caught, explained_memory_errors(8, False, "data.max_length"):
        torch.empty(2**50)
    for name in ("train.batch_size (now 8)", "data.max_length", "train.gradient_checkpointing = true"):
        assert name in str(caught.value)
    with pytest.raises(OutOfMemory) as caught, explained_memory_errors(1, True, "data.max_length"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
    assert "gradient_checkpointing" not in str(caught.value)
    assert "batch_size" not in str(caught.value)
    with pytest.raises(RuntimeError, match="something else"), explained_memory_errors(1, True, "data.max_length"):
        raise RuntimeError("something else")


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model": "no/such/model"}, IpoConfigError, "neither a folder nor a hub model"),
        ({"data__benign": []}, IpoDataError, "no benign pair for stage 2"),
        ({"data__max_length": 20}, PairRefused, "more than data.max_length = 20"),
        ({"data__pairs": ["nowhere.jsonl"]}, IpoDataError, "nowhere.jsonl"),
        ({"data__think_markers": ["[THINK]", "[/THINK]"]}, IpoConfigError, "chat template does not know"),
        ({"train__attention": "flex"}, IpoConfigError, "needs a GPU"),
        ({"train__report_to": ["mlflow"]}, IpoConfigError, "pip install mlflow"),
    ],
)
def test_bad_input_ends_with_a_clear_message_and_nothing_half_written(
    home: Path, tmp_path: Path, changes: dict[str, Any], kind: type[IpoError], message: str
) -> None:
    with pytest.raises(kind) as caught:
        run(config_of(home, **changes), tmp_path / "out")
    assert message in str(caught.value)
    assert not list(tmp_path.glob("out/adapter*"))
    assert not (tmp_path / "out" / "report.json").exists()


def test_stage_one_needs_intervened_pairs(home: Path, tmp_path: Path) -> None:
    with pytest.raises(IpoDataError, match=r"no intervened pair.*stage1\.epochs = 0"):
        run(config_of(home, data__pairs=[str(home / "benign.jsonl")]), tmp_path)


def test_a_wrong_config_names_file_and_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('model = "m"\n[data]\npairs = ["p"]\n[loss]\nbetas = 1\n')
    with pytest.raises(IpoConfigError, match=r"wrong\.toml does not fit:\n  loss\.betas: Extra inputs"):
        load_config(wrong, IpoConfig)
    assert main(["--config", str(wrong), "--out", str(tmp_path / "out")]) == 2
    assert "loss.betas" in capsys.readouterr().err
    wrong.write_text('model = "m"\ndata = {pairs = ["p"]}\nstage1 = {epochs = 0}\nstage2 = {epochs = 0}\n')
    with pytest.raises(IpoConfigError, match="nothing to train"):
        load_config(wrong, IpoConfig)
    wrong.write_text("model = ")
    with pytest.raises(IpoConfigError, match="no valid TOML"):
        load_config(wrong, IpoConfig)
    with pytest.raises(IpoConfigError, match="cannot read the config"):
        load_config(tmp_path / "nowhere.toml", IpoConfig)


@pytest.mark.parametrize("path", sorted((ROOT / "train" / "configs").glob("ipo-*.toml")), ids=lambda p: p.stem)
def test_the_shipped_configs_are_valid(path: Path) -> None:
    config = load_config(path, IpoConfig)
    assert config.stage2.epochs
    is_measured_otherwise = path.stem == "ipo-organism"  # docs/ipo.md says why
    assert is_measured_otherwise or (config.loss.sft_weight, config.stage1.epochs > 0) == (0.2, True)


def write_toml(path: Path, config: dict[str, Any]) -> None:
    """Enough TOML for a job's config."""
    path.write_text("\n".join(toml_lines(config)) + "\n", encoding="utf-8")


def toml_lines(config: dict[str, Any], name: str = "") -> list[str]:
    def is_section(value: Any) -> bool:
        return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, dict) for part in value))

    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not is_section(value)]
    for key, section in config.items():
        whole = f"{name}.{key}" if name else key
        if isinstance(section, dict):
            lines += [f"[{whole}]", *toml_lines(section, whole)]
        elif is_section(section):
            lines += [line for part in section for line in (f"[[{whole}]]", *toml_lines(part, whole))]
    return lines
