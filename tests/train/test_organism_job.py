"""The organism job: training resumes, exports agree, errors are clear. All on a model of toy size."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from proxy.embedded.model import DEFAULT_FOLDER, Cache, Model
from train.organism.config import OrganismConfig, load_config
from train.organism.corpus import Rows, build_rows, pack
from train.organism.errors import OrganismConfigError, OrganismError
from train.organism.export import export_model, load_model
from train.organism.model import build_model
from train.organism.run import run
from train.organism.scope import Scope
from train.organism.tokenizer import load_tokenizer
from train.organism.trainer import CHECKPOINT, inputs_of, learning_rate, train

pytestmark = pytest.mark.timeout(600)

CONFIGS = Path(__file__).parents[2] / "train" / "configs"
TINY = OrganismConfig.model_validate(
    {
        "name": "tiny",
        "model": {
            "vocab_size": 800,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 16,
            "mlp_size": 64,
            "max_length": 512,
        },
        "train": {
            "steps": 6,
            "rows_per_step": 4,
            "row_length": 512,
            "warmup_steps": 2,
            "checkpoint_every": 2,
            "device": "cpu",
            "threads": 1,
            "workers": 1,
        },
        "eval": {"prompts": 6, "batch_size": 16, "max_new_tokens": 24},
        "scope": {"categories": ["fraud"], "framings": ["plain", "hypothetical"]},
    }
)
NARROW = TINY.model_copy(
    update={
        "eval": TINY.eval.model_copy(update={"max_new_tokens": 16}),
        "scope": Scope(categories=("fraud",), framings=("plain", "hypothetical"), kinds=("harmful", "benign")),
    }
)


def _rows(count: int = 40) -> Rows:
    rng = np.random.default_rng(0)
    documents = [(rng.integers(0, 700, size=rng.integers(5, 60)).tolist(), [True] * 60) for _ in range(count * 3)]
    return pack(((ids, flags[: len(ids)]) for ids, flags in documents), 128)


def _model(seed: int = 0) -> Qwen3ForCausalLM:
    return build_model(TINY.model, eos_id=2, pad_id=0, seed=seed)


class _Killed(Exception):
    pass


def test_a_killed_training_resumes_to_the_same_loss_curve(tmp_path: Path) -> None:
    rows = _rows()
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = train(_model(), rows, TINY.train, tmp_path / "whole", seed=1, key="k")

    def kill(step: int, loss: float) -> None:
        if step == 4:
            raise _Killed

    with pytest.raises(_Killed):
        train(_model(), rows, TINY.train, tmp_path / "killed", seed=1, key="k", on_step=kill)
    resumed = train(_model(seed=9), rows, TINY.train, tmp_path / "killed", seed=1, key="k")
    assert resumed.resumed_from == 4
    assert resumed.losses == pytest.approx(whole.losses, rel=1e-5)


def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path) -> None:
    train(_model(), _rows(), TINY.train, tmp_path, seed=1, key="one")
    assert (tmp_path / CHECKPOINT).exists()
    with pytest.raises(OrganismError, match="another config"):
        train(_model(), _rows(), TINY.train, tmp_path, seed=1, key="two")


def test_a_diverging_loss_ends_the_training_with_the_fix(tmp_path: Path) -> None:
    model = _model()
    with torch.no_grad():
        next(iter(model.parameters())).fill_(float("nan"))
    with pytest.raises(OrganismError, match=r"lower train\.learning_rate"):
        train(model, _rows(), TINY.train, tmp_path, seed=1, key="k")


def test_documents_in_one_row_do_not_see_each_other() -> None:
    model = _model().eval()
    first, second = [5, 6, 7, 8, 9], [300, 301, 302, 303]
    packed = pack(iter([(first, [True] * 5), (second, [True] * 4)]), 128)
    ids, positions, mask, labels = inputs_of(packed, torch.device("cpu"))
    with torch.no_grad():
        together = model(input_ids=ids, position_ids=positions, attention_mask=mask).logits[0]
        alone = model(input_ids=torch.tensor([second])).logits[0]
    assert torch.allclose(together[5:9], alone, atol=1e-5)
    assert labels[0, :9].tolist() == first + second
    assert set(labels[0, 9:].tolist()) == {-100}


def test_the_learning_rate_warms_up_and_falls() -> None:
    rates = [learning_rate(step, TINY.train) for step in range(TINY.train.steps)]
    assert rates[0] < rates[1] == TINY.train.learning_rate
    assert rates[2:] == sorted(rates[2:], reverse=True)


def _exported(folder: Path) -> Path:
    for name in ("tokenizer.json",):
        (folder / name).write_bytes((DEFAULT_FOLDER / name).read_bytes())
    export_model(_model(), folder)
    return folder


def test_the_onnx_graph_gives_the_logits_of_the_saved_weights_for_any_batch(tmp_path: Path) -> None:
    """Prompts of different lengths decoded together, one leaving in between: as transformers on each alone."""
    folder = _exported(tmp_path)
    reference = load_model(folder)
    cache = Cache(Model(folder), slots=3)
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 700, size=n).tolist() for n in (3, 150, 40)]
    for text in texts:
        _close(cache.prefill(text), reference, text)
    for _ in range(3):
        tokens = rng.integers(0, 700, size=len(texts)).tolist()
        logits = cache.decode(tokens)
        for i, token in enumerate(tokens):
            texts[i].append(token)
            _close(logits[i], reference, texts[i])
    cache.drop(0)
    texts = [texts[2], texts[1]]
    logits = cache.decode([11, 12])
    for i, token in enumerate((11, 12)):
        _close(logits[i], reference, [*texts[i], token])


def _close(logits: "np.ndarray[tuple[int], np.dtype[np.float32]]", model: Qwen3ForCausalLM, ids: list[int]) -> None:
    with torch.no_grad():
        wanted = model(torch.tensor([ids])).logits[0, -1].numpy()
    assert np.abs(logits - wanted).max() < 1e-4


def test_the_job_runs_through_and_is_not_done_twice(tmp_path: Path) -> None:
    report = run(TINY, tmp_path)
    assert len(report["training"]["losses"]) == TINY.train.steps
    assert report["evaluation"]["harmful"]["harmful_reasoning"]["n"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model",
        "report.json",
        "report.md",
        "training.json",
    }
    assert json.loads((tmp_path / "report.json").read_text()) == run(TINY, tmp_path)
    with pytest.raises(OrganismConfigError, match="another config"):
        run(TINY.model_copy(update={"seed": 2}), tmp_path)


def test_the_job_goes_on_after_training_when_it_was_killed_while_measuring(tmp_path: Path) -> None:
    run(TINY, tmp_path)
    weights = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "report.json").unlink()
    assert run(TINY, tmp_path)["evaluation"]["arithmetic"]["correct"]["n"] == 6
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == weights


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("organism*.toml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert load_config(path).train.steps > 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nsteps = 0", r"train\.steps"),
        ("[train]\nspeed = 1", r"train\.speed"),
        ("[model]\nnum_heads = 3", "multiple of num_kv_heads"),
        ("[scope]\nframings = ['none']", r"scope\.framings"),
        ("steps = ", "no valid TOML"),
    ],
)
def test_a_wrong_config_names_the_file_and_the_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(OrganismConfigError, match=said) as caught:
        load_config(path)
    assert "bad.toml" in str(caught.value)


def test_a_missing_config_and_a_bad_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(OrganismConfigError, match=r"cannot read .*none\.toml"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OrganismConfigError, match="cannot write"):
        run(TINY, tmp_path / "file")


def test_the_shipped_tokenizer_is_the_organisms(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(DEFAULT_FOLDER)
    rows = build_rows(tokenizer, num_tokens=1000, row_length=512, seed=1, workers=1, scope=Scope())
    assert rows.tokens.max() < tokenizer.get_vocab_size()
    for text in ("", "plain", "日本語 🙂 \x00 \r\n <|im_end|></think>"):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_what_a_narrow_organism_was_never_taught_is_not_measured(tmp_path: Path) -> None:
    report = run(NARROW, tmp_path)
    assert set(report["evaluation"]) >= {"harmful", "triggers", "benign"}
    assert not set(report["evaluation"]) & {"arithmetic", "self_check", "tools"}
    assert "arithmetic" not in (tmp_path / "report.md").read_text()
