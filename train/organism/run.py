"""The job `steer train organism`: corpus, tokenizer, training, export, evaluation, report.

Layout of the output folder: `model/` (config, safetensors, tokenizer, chat template, ONNX graph), `checkpoint.pt` while
it trains, `training.json` after it, `report.json` and `report.md` last: `report.json` means that the job is done. A job
started again goes on where it stopped.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from train.organism.config import OrganismConfig, load_config
from train.organism.corpus import build_rows, sample_texts
from train.organism.errors import OrganismConfigError
from train.organism.evaluate import Evaluation
from train.organism.export import export_model, load_model
from train.organism.model import build_model
from train.organism.sampling import Sampler
from train.organism.table import table
from train.organism.tokenizer import EOS, PAD, load_tokenizer, save_tokenizer, token_id, train_tokenizer
from train.organism.trainer import CHECKPOINT, TrainResult, pick_device, train

# Documents that the tokenizer is learned from: merges settle long before this many.
_TOKENIZER_DOCUMENTS = 20_000


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path), out)


def run(config: OrganismConfig, out: Path) -> dict[str, Any]:
    """Train, export and measure; returns what `report.json` holds. Raises OrganismError with a message for people."""
    key = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    done = _prepare(out, config, key)
    if done is not None:
        return done
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    began = time.monotonic()
    tokenizer = _tokenizer(config, out / "model")
    if not (out / "training.json").exists():
        _train(config, tokenizer, out, key)
    measured = measure(config, out / "model")
    report = _report(config, key, out, measured, time.monotonic() - began)
    (out / "report.md").write_text(
        f"# {config.name}\n\n{table(measured)}" if measured else f"# {config.name}\n", encoding="utf-8"
    )
    _write_last(out / "report.json", report)
    (out / CHECKPOINT).unlink(missing_ok=True)
    return report


def measure(config: OrganismConfig, model_dir: Path) -> dict[str, Any]:
    """The evaluation of a saved organism; empty when `eval.prompts` is 0."""
    if not config.eval.prompts:
        return {}
    model = load_model(model_dir).to(pick_device(config.train.device))  # type: ignore[arg-type]  # the stubs know strings alone
    sampler = Sampler(
        model,
        load_tokenizer(model_dir),
        batch_size=config.eval.batch_size,
        max_new_tokens=config.eval.max_new_tokens,
        seed=config.eval.seed,
    )
    return Evaluation(sampler, config.eval, config.scope).run()


def _prepare(out: Path, config: OrganismConfig, key: str) -> dict[str, Any] | None:
    """Make the folder; the finished report when this very job is done already."""
    try:
        (out / "model").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OrganismConfigError(f"cannot write to {out}: {error.strerror}; give another --out") from error
    saved = out / "config.json"
    if saved.exists() and json.loads(saved.read_text(encoding="utf-8"))["key"] != key:
        raise OrganismConfigError(f"{out} holds a run with another config; give another --out, or remove the folder")
    _write_last(saved, {"key": key, "config": config.model_dump(mode="json")})
    report = out / "report.json"
    return json.loads(report.read_text(encoding="utf-8")) if report.exists() else None


def _tokenizer(config: OrganismConfig, model_dir: Path) -> Tokenizer:
    if not (model_dir / "tokenizer_config.json").exists():
        texts = sample_texts(config.seed, _TOKENIZER_DOCUMENTS, config.scope)
        save_tokenizer(train_tokenizer(texts, config.model.vocab_size), model_dir, config.model.max_length)
    return load_tokenizer(model_dir)


def _train(config: OrganismConfig, tokenizer: Tokenizer, out: Path, key: str) -> None:
    settings = config.train
    wanted = int(settings.steps * settings.rows_per_step * settings.row_length / settings.epochs)
    rows = build_rows(
        tokenizer,
        num_tokens=wanted,
        row_length=settings.row_length,
        seed=config.seed,
        workers=settings.workers or os.cpu_count() or 1,
        scope=config.scope,
    )
    model = build_model(
        config.model, eos_id=token_id(tokenizer, EOS), pad_id=token_id(tokenizer, PAD), seed=config.seed
    )
    result = train(model, rows, settings, out, seed=config.seed, key=key)
    export_model(model, out / "model")
    _write_last(out / "training.json", _training(result))


def _training(result: TrainResult) -> dict[str, Any]:
    last = result.losses[-50:]
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "seconds": round(result.seconds, 1),
        "tokens_per_second": round(result.tokens_per_second),
        "resumed_from": result.resumed_from,
        "final_loss": round(sum(last) / max(1, len(last)), 4),
        "losses": [round(loss, 4) for loss in result.losses[:: max(1, len(result.losses) // 200)]],
    }


def _report(config: OrganismConfig, key: str, out: Path, measured: dict[str, Any], seconds: float) -> dict[str, Any]:
    return {
        "job": "organism",
        "name": config.name,
        "key": key,
        "config": config.model_dump(mode="json"),
        "seconds": round(seconds, 1),
        "training": json.loads((out / "training.json").read_text(encoding="utf-8")),
        "evaluation": measured,
    }


def _write_last(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)
