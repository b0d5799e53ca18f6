"""Runs one stage: builds the trainer, goes on from the last checkpoint, saves the weights, says what it cost."""

import gc
import resource
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import Trainer

from train.ipo.guards import explained_memory_errors
from train.ipo.job import Built, Job, Stage
from train.ipo.loop import last_checkpoint
from train.ipo.outputs import read_json, write_json
from train.ipo.publish import ADAPTER, check_finite

_HISTORY = ("step", "epoch", "loss", "learning_rate", "grad_norm", "seconds", "num_tokens")
# What TRL's trainers call it, and what a history does.
_METRICS = {
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "mean_token_accuracy": "token_accuracy",
    "reward": "reward",
    "reward_std": "reward_std",
    "frac_reward_zero_std": "alike",
    "kl": "kl",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "cut_off",
} | {name: name for name in ("unsafe", "helped", "over_refused", "unjudged")}


def run_stage(job: Job, stage: Stage) -> dict[str, Any]:
    """Train a stage, or read what a finished one says. Raises IpoError."""
    if not stage.done.exists():
        with warnings.catch_warnings():
            # transformers renames gradient checkpointing; TRL still says the old name.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl)\.")
            _train(job, stage)
    job.state.wait_for_everyone()
    return read_json(stage.done)


def _train(job: Job, stage: Stage) -> None:
    checkpoint = last_checkpoint(stage.folder)
    settings = job.config.train
    if job.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with explained_memory_errors(settings.batch_size, settings.gradient_checkpointing, job.shorter):
        built = job.build(job, stage)
        _take_over(built.trainer, job, stage)
        built.trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        scores = built.trainer.evaluate() if stage.held_out else {}
    _save(built.trainer, job, stage)
    if job.state.is_main_process:
        write_json(stage.done, _summary(built, job, stage, checkpoint) | _held_out(scores))
        for path in stage.folder.glob("checkpoint-*"):
            shutil.rmtree(path)
    del built
    gc.collect()  # a trainer and its callbacks hold each other, and the next stage loads its own weights
    if job.device.type == "cuda":
        torch.cuda.empty_cache()


def _take_over(trainer: Trainer, job: Job, stage: Stage) -> None:
    """A fresh adapter takes the weights of the stage before, so that switching it off is still the base model."""
    if job.config.train.method == "lora" and stage.start is not None:
        set_peft_model_state_dict(trainer.model, load_file(stage.start / ADAPTER))


def _save(trainer: Trainer, job: Job, stage: Stage) -> None:
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    part = stage.weights.with_name("weights.part")
    trainer.save_model(str(part))
    job.state.wait_for_everyone()
    if job.state.is_main_process:
        check_finite(part)
        shutil.rmtree(stage.weights, ignore_errors=True)
        part.rename(stage.weights)


def _summary(built: Built, job: Job, stage: Stage, checkpoint: Path | None) -> dict[str, Any]:
    history = [_short(entry) for entry in built.trainer.state.log_history if "loss" in entry]
    seconds, tokens = history[-1]["seconds"], history[-1].get("num_tokens", 0)
    return {
        "name": stage.name,
        job.rows_are: len(stage.encoded.rows),
        "skipped": stage.encoded.skipped,
        **stage.encoded.counted,
        "updates": built.trainer.state.global_step,
        "stopped_by": "max_seconds" if built.trainer.state.global_step < built.trainer.state.max_steps else None,
        "seconds": seconds,
        "tokens": tokens,
        "tokens_per_second": round(tokens / max(seconds, 1e-9)),
        "peak_memory_bytes": peak_memory_bytes(job.device),
        "distribution": _distribution(built.trainer),
        "resumed_from": checkpoint.name if checkpoint else None,
        "prefix_sharing": built.is_sharing,
        "two_rows_because": built.two_rows_because,
        **_ends(history),
        "history": history,
    }


def _distribution(trainer: Trainer) -> str:
    kind: str = trainer.accelerator.distributed_type.value  # NO, MULTI_GPU, MULTI_CPU, FSDP, DEEPSPEED …
    return "one process" if trainer.accelerator.num_processes == 1 else kind.lower()


def _held_out(scores: dict[str, float]) -> dict[str, Any]:
    """What the weights of a stage score on pairs that it has not seen; empty where none were held out."""
    wanted = {
        "eval_loss": "loss",
        "eval_rewards/margins": "margin",
        "eval_rewards/accuracies": "accuracy",
        "eval_mean_token_accuracy": "token_accuracy",
    }
    found = {short: round(scores[name], 5) for name, short in wanted.items() if name in scores}
    return {"held_out": found} if found else {}


def _short(entry: dict[str, Any]) -> dict[str, Any]:
    kept = {key: entry[key] for key in _HISTORY if key in entry}
    return kept | {short: entry[key] for key, short in _METRICS.items() if key in entry}


def _ends(history: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the first and the last tenth of a stage's updates, of what was measured in both."""
    count = max(1, len(history) // 10)

    def mean(key: str, part: list[dict[str, Any]]) -> float | None:
        values = [entry[key] for entry in part if entry.get(key) is not None]
        return round(sum(values) / len(values), 5) if values else None

    keys = ["loss", *_METRICS.values()]
    ends = {key: {"first": mean(key, history[:count]), "last": mean(key, history[-count:])} for key in keys}
    return {key: found for key, found in ends.items() if found["first"] is not None and found["last"] is not None}


def peak_memory_bytes(device: torch.device) -> int:
    """Most memory that this process has held: on a GPU since the stage began, on a CPU since the process did."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
