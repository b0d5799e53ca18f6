"""transformers' arguments that every kind of job shares, and the token that pads."""

import math
from typing import Any

from train.ipo.job import Job, Stage


def training_arguments(job: Job, stage: Stage) -> dict[str, Any]:
    """From `[train]` and the stage's own settings."""
    settings = job.config.train
    per_update = settings.batch_size * settings.accumulation * job.state.num_processes
    samples = len(stage.encoded.rows) * stage.samples_per_row
    updates = math.ceil(math.ceil(samples / per_update) * stage.settings.epochs)
    return {
        "run_name": f"{job.config.name}-{stage.name}",
        "num_train_epochs": stage.settings.epochs,
        "learning_rate": stage.settings.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(updates * settings.warmup_ratio),
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "per_device_train_batch_size": settings.batch_size,
        "per_device_eval_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulation,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "bf16": job.is_bf16,
        "use_cpu": job.device.type == "cpu",
        "dataloader_pin_memory": job.device.type == "cuda",
        "seed": job.config.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,  # the older one serves when the newer was not written whole
        "report_to": list(settings.report_to) or "none",
        "ddp_find_unused_parameters": False,
    }


def pad_id(job: Job) -> int:
    """The tokenizer's own, or its end of sequence."""
    tokenizer = job.base.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return int(tokenizer.pad_token_id)
