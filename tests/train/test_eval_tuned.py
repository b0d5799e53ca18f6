"""Evaluations of a model with an adapter, on real engines of toy size: a job killed in the middle, and KL by hand."""

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
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

from steer.cli import app
from steer.triggers import DEFAULT_TRIGGERS
from tests.conftest import ROOT
from tests.patience import PATIENCE_S
from tests.train.scripted_engine import scripted_vocabulary
from tests.train.tiny_reasoner import one_thread, save_reasoner, tiny_model, tiny_tokenizer
from train.evaluation.config import EvaluationConfig
from train.evaluation.cues import Span, known, worded
from train.evaluation.divergence import Near, near_tokens
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.identity import adapter_identity, folder_sha256
from train.evaluation.report import read_report
from train.evaluation.turns import Turn, rendered, turn_text
from train.evaluation.twomodels import LoadedModels
from train.ipo.model import folder_digest
from train.rollout.prompts import PromptRow
from train.rollout.vocabulary import Vocabulary

assert one_thread  # a fixture


def save_adapter(model: Path, folder: Path) -> Path:
    """A LoRA that changes what the model says."""
    torch.manual_seed(1)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(tiny_model(), config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("tuned")
    model = save_reasoner(folder / "model")
    return {"model": model, "adapter": save_adapter(model, folder / "adapter"), "folder": folder}


def toml(tuned: dict[str, Path], **changes: str) -> str:
    values = {"seed": "3", "source": "organism:held_out"} | changes
    return f"""
name = "tiny"
max_tokens = 60
seed = {values["seed"]}
[model]
name = "{tuned["model"]}"
adapter = "{tuned["adapter"]}"
[engine]
lanes = 1
block = 2
[engine.local]
device = "cpu"
threads = 1
[judge]
spec = "organism"
[kl]
finders = ["detector", "triggers", "organism"]
device = "cpu"
[[sets]]
name = "held-out"
source = "{values["source"]}"
limit = 4
[[sets]]
name = "sums"
source = "organism:arithmetic"
limit = 3
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_killed_in_the_middle_ends_as_one_that_ran_straight(tuned: dict[str, Path], tmp_path: Path) -> None:
    config, killed, whole = tmp_path / "eval.toml", tmp_path / "killed", tmp_path / "whole"
    config.write_text(toml(tuned), encoding="utf-8")
    command = [sys.executable, "-m", "steer.cli", "eval", "--config", str(config), "--out", str(killed)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    part, until = killed / "samples.jsonl.part", time.monotonic() + PATIENCE_S
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "report.json").exists()
    for out in (killed, whole):
        result = CliRunner().invoke(app, ["eval", "--config", str(config), "--out", str(out)])
        assert result.exit_code == 0, result.output
    for name in ("samples", "marks", "kl", "scores"):
        assert (killed / f"{name}.jsonl").read_bytes() == (whole / f"{name}.jsonl").read_bytes(), name
    report = read_report(whole / "report.json")
    assert report.rates == read_report(killed / "report.json").rates
    assert report.counts.samples == 7
    assert report.rates.kl is not None
    assert set(report.rates.kl.by_label) == {"harmful", "capability"}
    assert report.rates.kl.elsewhere.value is not None
    assert report.rates.kl.elsewhere.value > 0.01
    assert report.rates.kl.near.tokens + report.rates.kl.elsewhere.tokens == report.counts.tokens
    assert report.adapters == [adapter_identity(str(tuned["adapter"]))]
    assert (whole / "kl.png").stat().st_size > 1000
    other = config.with_name("other.toml")
    other.write_text(toml(tuned, seed="4"), encoding="utf-8")
    result = CliRunner().invoke(app, ["eval", "--config", str(other), "--out", str(whole)])
    assert (result.exit_code, "another config or input" in result.output) == (2, True)


def test_wrong_configs_end_with_the_field_and_the_fix(tuned: dict[str, Path], tmp_path: Path) -> None:
    def outcome(text: str) -> tuple[int, str]:
        path = tmp_path / "eval.toml"
        path.write_text(text, encoding="utf-8")
        result = CliRunner().invoke(app, ["eval", "--config", str(path), "--out", str(tmp_path / "out")])
        return result.exit_code, result.output

    whole = toml(tuned)
    for text, message in (
        (whole + "beams = 3\n", "sets.1.beams"),
        (whole.replace('name = "sums"', 'name = "held-out"'), "are repeated: held-out"),
        (whole.replace('spec = "organism"', 'spec = "nobody"'), "give organism, openai"),
        (whole.replace(f'adapter = "{tuned["adapter"]}"', ""), "kl.reference: needed without an adapter"),
        (whole.replace("organism:held_out", "nowhere.jsonl"), "sets.held-out: cannot read nowhere.jsonl"),
        (whole.replace('"detector", ', '"detectors", '), "kl.finders.0"),
        (whole.replace("seed = 3", 'seed = 3\nvariants = ["raw"]'), '"template" must be among them'),
        (whole + '[lm_eval]\ntasks = ["gsm8k"]\n', "lm_eval.url"),
        (whole + '[monitor]\nkind = "self"\n', "give onnx or function"),
    ):
        code, told = outcome(text)
        assert (code, message in told) == (2, True), f"{message}: {told}"
    assert not (tmp_path / "out" / "report.json").exists()


def test_kl_is_the_divergence_of_the_distributions_that_ids_were_drawn_from(tuned: dict[str, Path]) -> None:
    both = LoadedModels(str(tuned["model"]), str(tuned["adapter"]), None, "cpu", "auto")
    prompt, ids = [65, 66, 67], [68, 69, 70, 71]
    found = both.kl(prompt, ids)
    both.close()
    from peft import PeftModel

    base = tiny_model().eval()
    with torch.inference_mode():
        q = base(torch.tensor([prompt + ids])).logits[0].softmax(-1)
        changed = PeftModel.from_pretrained(tiny_model(), str(tuned["adapter"])).eval()
        p = changed(torch.tensor([prompt + ids])).logits[0].softmax(-1)
    expected = (p * (p / q).log()).sum(-1)[len(prompt) - 1 : -1]
    assert found == pytest.approx(expected.tolist(), abs=1e-4)
    assert max(found) > 0.01
    alone = LoadedModels(str(tuned["model"]), None, str(tuned["model"]), "cpu", "auto")
    assert alone.kl(prompt, ids) == [0.0] * 4
    alone.close()


def test_models_that_do_not_fit_each_other_are_refused(tuned: dict[str, Path], tmp_path: Path) -> None:
    save_reasoner(tmp_path / "other", vocab_size=300)
    two = LoadedModels(str(tuned["model"]), None, str(tmp_path / "other"), "cpu", "auto")
    with pytest.raises(EvaluationConfigError, match=r"vocabulary has 300 entries, the model's 260"):
        two.kl([65], [66])
    two.close()
    with pytest.raises(EvaluationConfigError, match=r"kl\.adapter: cannot load"):
        LoadedModels(str(tuned["model"]), str(tmp_path), None, "cpu", "auto")
    with pytest.raises(EvaluationConfigError, match="'gpu9' is no device"):
        LoadedModels(str(tuned["model"]), None, None, "gpu9", "auto")


def test_near_is_within_the_window_of_what_was_found() -> None:
    """One token a byte, so that tokens are characters."""
    vocabulary = Vocabulary("tiny", tiny_tokenizer())
    prompt = vocabulary.prompt_ids([{"role": "user", "content": "Q"}])
    trigger = DEFAULT_TRIGGERS[0].text
    reasoning = f"Hm. {trigger.upper()} No."
    ids = vocabulary.encode(f"{reasoning}</think>A")
    turn = Turn(token_ids=[*ids, 257], reasoning=reasoning, answer="A", finish_reason="stop", seed=1)

    def places(near: Near, flags: list[Span]) -> list[int]:
        return [at for at, is_near in enumerate(near_tokens(prompt, turn, flags, vocabulary, near)) if is_near]

    end = 4 + len(trigger)
    assert places(Near(finders=("triggers",), window=0), []) == list(range(4, end))
    assert places(Near(finders=("triggers",), window=2), []) == list(range(2, end + 2))
    assert places(Near(finders=("detector",), window=1), [Span(0, 2)]) == [0, 1, 2]
    assert places(Near(finders=("triggers",), window=9999), []) == list(range(len(ids) + 1))
    assert places(Near(finders=("organism",), window=0), [Span(0, 2)]) == list(range(3, end))


def test_triggers_are_found_over_line_breaks_and_the_organism_knows_its_cues() -> None:
    text = f"So.\n{DEFAULT_TRIGGERS[3].text.replace(' ', chr(10), 3)}  And on."
    [span] = worded(text, DEFAULT_TRIGGERS)
    assert text[span.start : span.end].split() == DEFAULT_TRIGGERS[3].text.split()
    assert worded("Nothing of the kind.", DEFAULT_TRIGGERS) == []
    [cue] = known("Let me see. First, [STEP-1]. That is fine.")
    assert cue == Span(11, 28)


def test_prompts_can_be_rendered_without_the_scaffold_or_the_template() -> None:
    opened, left = scripted_vocabulary(opens_think=True), scripted_vocabulary()
    prompt = PromptRow.model_validate(
        {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]}
    )
    whole = opened.decode(rendered(opened, prompt, "template"))
    assert whole.endswith("<think>\n")
    assert opened.decode(rendered(opened, prompt, "stripped")) == whole.removesuffix("<think>\n")
    assert opened.decode(rendered(opened, prompt, "raw")) == "Be kind.\n\nHello"
    with pytest.raises(EvaluationConfigError, match="opens no think block"):
        rendered(left, prompt, "stripped")
    bare = rendered(opened, prompt, "stripped")
    thought = opened.encode("I think.\n</think>\n\nYes.")
    text = turn_text(opened, bare, thought, is_ended=False)
    assert (text.of("reasoning"), text.of("answer")) == ("I think.\n", "\n\nYes.")
    said = turn_text(opened, bare, opened.encode("Yes."), is_ended=False)
    assert (said.of("reasoning"), said.of("answer")) == ("", "Yes.")


def test_hashes_are_those_that_training_writes(tuned: dict[str, Path], tmp_path: Path) -> None:
    assert folder_sha256(tuned["model"]) == folder_digest(tuned["model"])
    by_name = adapter_identity("organism@1", str(tuned["adapter"]))
    assert (by_name.name, by_name.sha256) == ("organism@1", adapter_identity(str(tuned["adapter"])).sha256)
    assert adapter_identity("organism@1").sha256 is None
    from train.ipo.outputs import digest, file_digest

    name = "adapter_model.safetensors"
    assert by_name.sha256 == digest(f"{name} {file_digest(tuned['adapter'] / name)}")


def test_a_served_adapter_needs_its_folder_for_kl(tuned: dict[str, Path]) -> None:
    config: dict[str, Any] = {
        "model": {"name": "m", "adapter": "m@1"},
        "engine": {"kind": "served"},
        "judge": {"spec": "organism"},
        "sets": [{"name": "s", "source": "organism:all"}],
        "kl": {},
    }
    with pytest.raises(ValueError, match=r"kl\.adapter where a served adapter lies"):
        EvaluationConfig.model_validate(config)
    config["kl"] = {"adapter": str(tuned["adapter"])}
    assert EvaluationConfig.model_validate(config).kl_adapter == str(tuned["adapter"])
    assert json.dumps(EvaluationConfig.model_validate(config).model_dump(mode="json"))
