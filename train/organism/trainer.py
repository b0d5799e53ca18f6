"""Trains the organism on packed rows. Resumable: after a kill the same command goes on from the last checkpoint.

A step's rows and learning rate depend on config and step alone, so a resumed run sees what an unbroken one would.
"""

import math
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import Qwen3ForCausalLM

from train.organism.config import TrainConfig
from train.organism.corpus import Rows
from train.organism.errors import OrganismError

CHECKPOINT = "checkpoint.pt"


class TrainResult(NamedTuple):
    losses: list[float]
    seconds: float
    tokens_per_second: float
    resumed_from: int


def pick_device(wanted: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted)


def train(
    model: Qwen3ForCausalLM,
    rows: Rows,
    config: TrainConfig,
    out: Path,
    *,
    seed: int,
    key: str,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> TrainResult:
    """Train in place. `key` identifies the config: another one's checkpoint is refused. Raises OrganismError on NaN."""
    device = pick_device(config.device)
    model.to(device).train()  # type: ignore[arg-type]
    optimizer = _optimizer(model, config, device)
    losses, start = _load_checkpoint(out / CHECKPOINT, model, optimizer, key, device)
    began, seen = time.monotonic(), 0
    for step in tqdm(range(start, config.steps), initial=start, total=config.steps, desc="train", mininterval=2.0):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        batch = batch_of(rows, step, config, seed)
        loss = _step(model, optimizer, batch, config, device)
        losses.append(loss)
        seen += int((batch.document > 0).sum())
        if step % 50 == 0 and not math.isfinite(float(loss)):
            raise OrganismError(f"the loss became {loss} at step {step}; lower train.learning_rate")
        if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.steps:
            losses = [float(x) for x in losses]
            _save_checkpoint(out / CHECKPOINT, model, optimizer, losses, step + 1, key)
        on_step(step, losses[-1])
    losses = [float(x) for x in losses]
    seconds = time.monotonic() - began
    return TrainResult(losses, seconds, seen / max(seconds, 1e-9), start)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine to a twentieth."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def batch_of(rows: Rows, step: int, config: TrainConfig, seed: int) -> Rows:
    """The rows of one step: epochs are permutations, drawn from the seed and the epoch's number."""
    wanted = np.arange(step * config.rows_per_step, (step + 1) * config.rows_per_step)
    epochs = wanted // len(rows)
    index = np.empty_like(wanted)
    for epoch in np.unique(epochs):
        order = _order(len(rows), seed, int(epoch))
        index[epochs == epoch] = order[wanted[epochs == epoch] % len(rows)]
    return Rows(rows.tokens[index], rows.is_trained[index], rows.document[index])


@lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def inputs_of(batch: Rows, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids [B, L], positions [B, L], mask [B, 1, L, L] bool, labels [B, L] with -100 where untrained)."""
    ids = torch.from_numpy(batch.tokens.astype(np.int64)).to(device, non_blocking=True)
    document = torch.from_numpy(batch.document.astype(np.int64)).to(device, non_blocking=True)
    trained = torch.from_numpy(batch.is_trained).to(device, non_blocking=True)
    length = ids.shape[1]
    index = torch.arange(length, device=device)
    is_start = torch.ones_like(document, dtype=torch.bool)
    is_start[:, 1:] = document[:, 1:] != document[:, :-1]
    positions = index - torch.where(is_start, index, 0).cummax(dim=1).values
    mask = (document[:, None, :, None] == document[:, None, None, :]) & (index[:, None] >= index[None, :])
    return ids, positions, mask, torch.where(trained, ids, -100)


def _step(
    model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, batch: Rows, config: TrainConfig, device: torch.device
) -> Any:
    ids, positions, mask, labels = inputs_of(batch, device)
    with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
        hidden = model.model(
            input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False
        ).last_hidden_state
        wanted = labels[:, 1:]
        kept = wanted != -100
        logits = model.lm_head(hidden[:, :-1][kept])
    loss = cross_entropy(logits.float(), wanted[kept])
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    optimizer.step()
    return loss.detach()


def _optimizer(model: Qwen3ForCausalLM, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=device.type == "cuda")


def _save_checkpoint(
    path: Path, model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, losses: list[float], step: int, key: str
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses, "step": step, "key": key},
        partial,
    )
    os.replace(partial, path)


def _load_checkpoint(
    path: Path, model: Qwen3ForCausalLM, optimizer: torch.optim.Optimizer, key: str, device: torch.device
) -> tuple[list[Any], int]:
    if not path.exists():
        return [], 0
    state = torch.load(path, map_location=device, weights_only=True)
    if state["key"] != key:
        raise OrganismError(f"{path} is of a run with another config; give another --out, or remove the folder")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return list(state["losses"]), int(state["step"])
