"""One job as all its stages see it: settings, base model, device, ranks. Also what a stage and its trainer are."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState

from train.ipo.config import JobConfig, StageConfig
from train.ipo.encoding import Encoded
from train.ipo.errors import IpoConfigError
from train.ipo.model import Base


class Built(NamedTuple):
    """A stage's trainer (`train.ipo.loop.Guarded`), and how its rows go through the model."""

    trainer: Any
    is_sharing: bool = False
    two_rows_because: str | None = None


Build = Callable[["Job", "Stage"], Built]


@dataclass(frozen=True, slots=True)
class Job:
    """What the stages share."""

    kind: str  # ipo, dpo, sft or grpo
    config: JobConfig
    build: Build
    base: Base
    out: Path
    state: PartialState
    rows_are: str = "pairs"  # what a stage's rows are called in reports
    shorter: str = 'data.max_length (with data.too_long = "skip")'  # the setting that makes rows shorter

    @property
    def device(self) -> torch.device:
        return self.state.device

    @property
    def is_bf16(self) -> bool:
        wanted = self.config.train.precision
        return wanted == "bf16" or (wanted == "auto" and self.device.type == "cuda")

    @property
    def weights_dtype(self) -> torch.dtype:
        """A frozen base may be held in bf16; trained weights stay in fp32, under autocast."""
        return torch.bfloat16 if self.is_bf16 and self.config.train.method == "lora" else torch.float32


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass of training; its folder holds checkpoints, then `weights/`, then `stage.json`, which means done."""

    name: str
    encoded: Encoded
    held_out: Encoded | None  # scored when the stage ends
    settings: StageConfig
    folder: Path
    start: Path | None  # weights of the stage before; None starts from the base
    samples_per_row: int = 1  # what a step counts: completions of a prompt, where rows are prompts
    max_seconds: float | None = None  # the stage ends after the update in which they are over

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def done(self) -> Path:
        return self.folder / "stage.json"


def start_processes(config: JobConfig) -> PartialState:
    """Join the other ranks, if any (`accelerate launch`), on the configured device. Raises IpoConfigError."""
    wanted = config.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise IpoConfigError('train.device = "cuda", but torch sees no GPU; set it to "auto" or "cpu"')
    if config.train.attention == "flex" and (wanted == "cpu" or not torch.cuda.is_available()):
        raise IpoConfigError('train.attention = "flex" needs a GPU; set it to "auto" or "sdpa"')
    for name in config.train.report_to:
        if find_spec(name) is None:
            raise IpoConfigError(f"train.report_to names {name}, which is not installed: pip install {name}")
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    is_cpu = wanted == "cpu" or not torch.cuda.is_available()
    return PartialState(cpu=is_cpu)
