"""What all trainers of this project add to TRL's, whatever their loss.

- a loss or a gradient that is NaN or infinite stops the run before the optimiser uses it, where transformers would
  filter it out of the logs;
- seconds and tokens are counted across resumes, a budget of seconds ends the run after an update;
- a checkpoint counts only once all ranks have written theirs;
- nothing is reported to TRL's makers; no model card is written.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from transformers import ProgressCallback, Trainer, TrainerCallback

from train.ipo.guards import GradientGuard, diverged

COMPLETE = "complete"  # an empty file in a checkpoint, written when all ranks have written theirs


class Guarded(Trainer):
    """Mixed in before a TRL trainer. `train` raises TrainingDiverged."""

    _tag_names: list[str] = []  # noqa: RUF012 - TRL's own attribute
    _total_train_tokens: int  # TRL's own count

    def __init__(self, *args: Any, max_seconds: float | None = None, **kwargs: Any) -> None:
        self.began = time.monotonic()
        self.max_seconds = max_seconds
        super().__init__(*args, **kwargs)
        self.add_callback(_TakeUp(self))
        self.add_callback(_Budget(self))
        self.add_callback(GradientGuard())
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Bar())

    @property
    def seconds(self) -> float:
        """Spent on this stage so far, earlier starts included."""
        return time.monotonic() - self.began

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not math.isfinite(value := float(loss)):
            raise diverged(f"the loss is {value}", self.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["seconds"] = round(self.seconds, 3)
        super().log(logs, start_time)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card: the report and the manifest say where weights come from."""

    def _send_telemetry(self) -> None:
        """Nothing leaves the machine."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
            (folder / COMPLETE).touch()


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` that was written whole."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


class _TakeUp(TrainerCallback):
    """Goes on counting seconds and tokens where the checkpoint stopped."""

    def __init__(self, trainer: Guarded) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.log_history:
            last = state.log_history[-1]
            self._trainer.began -= last.get("seconds", 0.0)
            self._trainer._total_train_tokens = int(last.get("num_tokens", 0))


class _Budget(TrainerCallback):
    """Ends training after the update in which the seconds are over; the first rank's clock decides for all."""

    def __init__(self, trainer: Guarded) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        if trainer.max_seconds is None:
            return
        is_over = torch.tensor(trainer.seconds >= trainer.max_seconds, device=trainer.accelerator.device)
        if bool(broadcast(is_over)):
            control.should_training_stop = True


class _Bar(ProgressCallback):
    """transformers' progress bar with the figures beside it, instead of a line for each step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        bar: Any = self.training_bar
        if state.is_world_process_zero and bar is not None and logs:
            shown = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy", "reward": "reward"}
            bar.set_postfix({short: f"{logs[key]:.3f}" for key, short in shown.items() if logs.get(key) is not None})
