"""Capability by the lm-eval harness (EleutherAI), against a served model: run as a program, its results read.

    OUT/lm_eval/        what it wrote
    OUT/lm_eval.json    results, versions and command; written when it is done

It is an optional package (`pip install 'lm-eval[api]'`) and has its own way with prompts: its figures stand beside the
prompt sets' own, under lm_eval:TASK, with intervals made of its standard errors.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from statistics import NormalDist
from typing import Any

from train.evaluation.config import EvaluationConfig, HarnessConfig
from train.evaluation.errors import HarnessError
from train.evaluation.report import Rate
from train.rollout.store import write_json

RESULTS = "lm_eval.json"
_FOLDER = "lm_eval"
# A task's rate is its first figure of these, by the filter that it lists first.
_METRICS = ("exact_match", "acc", "pass@1", "acc_norm", "pass_at_1", "prompt_level_strict_acc")


def run_harness(config: EvaluationConfig, out: Path) -> dict[str, Any]:
    """What OUT/lm_eval.json holds; runs the harness where it does not exist. Raises HarnessError."""
    assert config.lm_eval is not None, "asked for"
    done = out / RESULTS
    if not done.exists():
        command = [*find_program(), *_arguments(config, config.lm_eval, out / _FOLDER)]
        shutil.rmtree(out / _FOLDER, ignore_errors=True)
        _run(command, config.lm_eval, _key(config), out)
        found = _newest(out / _FOLDER)
        kept = ("results", "n-samples", "versions", "n-shot", "higher_is_better", "lm_eval_version")
        write_json(done, {"command": command, **{name: found[name] for name in kept if name in found}})
    made: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return made


def rates(harness: dict[str, Any], confidence: float) -> dict[str, Rate]:
    """A rate for every task whose figure is a share."""
    made = {}
    for task, figures in harness["results"].items():
        name = _metric(figures)
        if name is None:
            continue
        share, error = float(figures[name]), figures.get(name.replace(",", "_stderr,", 1))
        half = None if not isinstance(error, int | float) else NormalDist().inv_cdf((1 + confidence) / 2) * error
        count = int(harness.get("n-samples", {}).get(task, {}).get("effective", 0))
        made[f"lm_eval:{task}"] = Rate(
            share=share,
            low=None if half is None else max(0.0, share - half),
            high=None if half is None else min(1.0, share + half),
            n=count,
            prompts=count,
            interval=None if half is None else "stderr",
        )
    return made


def _metric(figures: dict[str, Any]) -> str | None:
    for metric in _METRICS:
        for name, value in figures.items():
            if name.partition(",")[0] == metric and isinstance(value, int | float) and 0 <= value <= 1:
                return name
    return None


def find_program() -> list[str]:
    """How the harness is called. Raises HarnessError where it is not installed."""
    if program := shutil.which("lm_eval"):
        return [program]
    if find_spec("lm_eval") is not None:
        return [sys.executable, "-m", "lm_eval"]
    raise HarnessError(
        "[lm_eval] needs the lm-eval harness, and it is not here: pip install 'lm-eval[api]' (where its pins clash, "
        "into an environment of its own with lm_eval on the PATH), or leave [lm_eval] out"
    )


def _arguments(config: EvaluationConfig, asked: HarnessConfig, folder: Path) -> list[str]:
    url, path = (asked.url or config.engine.served.url).rstrip("/"), "chat/completions" if asked.chat else "completions"
    model = config.model
    model_args = {
        "model": model.adapter or model.served_name or model.name,
        "base_url": f"{url}/v1/{path}",
        "num_concurrent": asked.concurrency,
        "seed": config.seed,
        "max_retries": config.engine.served.retries,
        "timeout": int(config.engine.served.timeout_s),
        **({} if asked.chat else {"tokenizer": model.tokenizer or model.name, "tokenized_requests": False}),
    }
    command = ["--model", "local-chat-completions" if asked.chat else "local-completions"]
    command += ["--model_args", ",".join(f"{name}={value}" for name, value in model_args.items())]
    command += ["--tasks", ",".join(asked.tasks), "--output_path", str(folder), "--seed", str(config.seed)]
    command += ["--batch_size", "1"]
    command += ["--apply_chat_template"] if asked.chat else []
    command += ["--limit", str(asked.limit)] if asked.limit is not None else []
    command += ["--num_fewshot", str(asked.num_fewshot)] if asked.num_fewshot is not None else []
    sampling = {"temperature": config.sampling.temperature, "top_p": config.sampling.top_p}
    if asked.max_tokens is not None:
        sampling |= {"max_gen_toks": asked.max_tokens}
    command += ["--gen_kwargs", ",".join(f"{name}={value}" for name, value in sampling.items())]
    return [*command, *asked.options]


def _key(config: EvaluationConfig) -> dict[str, str]:
    """The engine's key where the harness looks for it."""
    name = config.engine.served.api_key_env
    key = os.environ.get(name) if name else None
    return {"OPENAI_API_KEY": key} if key else {}


def _run(command: list[str], asked: HarnessConfig, key: dict[str, str], out: Path) -> None:
    log = out / "lm_eval.log"
    try:
        with log.open("wb") as sink:
            code = subprocess.run(
                command,
                env={**os.environ, **key},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                timeout=asked.timeout_s,
                check=False,
            ).returncode
    except OSError as error:
        raise HarnessError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise HarnessError(f"lm_eval took more than lm_eval.timeout_s = {asked.timeout_s:.0f}; see {log}") from error
    if code != 0:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise HarnessError(f"lm_eval failed with exit code {code} ({lines[-1] if lines else 'no word'}); see {log}")


def _newest(folder: Path) -> dict[str, Any]:
    """The results file that a run wrote, under a folder named after the model or not."""
    files = sorted(folder.rglob("results*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise HarnessError(f"lm_eval wrote no results into {folder}; is lm_eval.options at fault?")
    try:
        found = json.loads(files[-1].read_text(encoding="utf-8"))
        if isinstance(found["results"], dict) and all(isinstance(value, dict) for value in found["results"].values()):
            return dict(found)
    except (ValueError, KeyError, TypeError) as error:
        raise HarnessError(f"{files[-1]} is no results file of lm_eval ({error!r})") from error
    raise HarnessError(f"{files[-1]} is no results file of lm_eval: results holds no tasks")
