"""What stops a training run with a message instead of a wrong result: NaN, infinities, memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from train.ipo.errors import OutOfMemory, TrainingDiverged

_CPU_MEMORY = "can't allocate memory"  # torch raises a bare RuntimeError for the machine's own memory


def diverged(what: str, step: int) -> TrainingDiverged:
    """The error for a NaN or an infinity met in optimiser step `step` (1-based)."""
    return TrainingDiverged(
        f"{what} at step {step}; the weights were not updated with it and the last checkpoint is from before. "
        "Lower the learning rate or beta, or look at the pairs of that batch; then start the job again with another "
        "--out (the same one goes on from the last checkpoint)"
    )


class GradientGuard(TrainerCallback):
    """Stops before the optimiser uses a gradient that is NaN or infinite: a finite loss does not exclude one."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        local = [g.to_local() if hasattr(g, "to_local") else g for g in gradients]  # a shard, under FSDP
        if local and not bool(torch.stack([torch.isfinite(g).all() for g in local]).all()):
            raise diverged("a gradient is NaN or infinite", state.global_step + 1)


@contextmanager
def explained_memory_errors(rows: int, is_checkpointing: bool, shorter: str) -> Iterator[None]:
    """Turns running out of memory into OutOfMemory, naming the settings that help.

    `rows`: of one step on one device. `shorter`: the setting that makes rows shorter.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(_memory_advice(rows, is_checkpointing, shorter, str(error))) from error
    except RuntimeError as error:
        if _CPU_MEMORY not in str(error):
            raise
        raise OutOfMemory(_memory_advice(rows, is_checkpointing, shorter, str(error))) from error


def _memory_advice(rows: int, is_checkpointing: bool, shorter: str, detail: str) -> str:
    advice = [] if is_checkpointing else ["set train.gradient_checkpointing = true"]
    if rows > 1:
        advice.append(f"lower train.batch_size (now {rows}) and raise train.accumulation by as much")
    advice.append(f"lower {shorter}")
    first_line = detail.splitlines()[0] if detail else "no detail given"
    return f"out of memory: {'; '.join(advice)}. The device said: {first_line}"
