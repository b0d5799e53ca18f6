"""The IPO trainer: TRL's DPOTrainer on rows of token ids, with its traps closed.

The loss is TRL's own (`sigmoid` plus `sft` on the chosen side); because a row's prompt holds everything before the
divergence, that is DPO restricted to the divergent segments. (TRL's `loss_type="ipo"` is another method.) Closed here:

- rows are trained as they come: never re-tokenised, never given an end-of-sequence id, never cut (`max_length` is None;
  what is too long was refused when the pairs were encoded);
- a loss or a gradient that is NaN or infinite stops the run before the optimiser uses it, where transformers would
  filter it out of the logs;
- seconds and tokens are counted across resumes; nothing is reported to TRL's makers; no model card is written.

The reference is the base model: with LoRA the adapter switched off, in full training an explicit `ref_model`.
"""

import math
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import ProgressCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from train.ipo.guards import GradientGuard, diverged

COMPLETE = "complete"  # an empty file in a checkpoint, written when all ranks have written theirs
ROW_FIELDS = ("prompt_ids", "chosen_ids", "rejected_ids")


def dpo_config(out: Path, *, beta: float, sft_weight: float, **settings: Any) -> DPOConfig:
    """TRL's config for segment DPO with the auxiliary SFT term; `settings` are TRL's and transformers' own."""
    has_sft = sft_weight > 0
    return DPOConfig(
        output_dir=str(out),
        beta=beta,
        loss_type=["sigmoid", "sft"] if has_sft else ["sigmoid"],
        loss_weights=[1.0, sft_weight] if has_sft else [1.0],
        max_length=None,
        logging_nan_inf_filter=False,
        **settings,
    )


class IPOTrainer(DPOTrainer):
    """DPOTrainer on rows {prompt_ids, chosen_ids, rejected_ids}; all else is TRL's. `train` raises TrainingDiverged."""

    _tag_names: list[str] = []  # noqa: RUF012 - TRL's own attribute

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.began = time.monotonic()
        super().__init__(*args, **kwargs)
        self.add_callback(_TakeUp(self))
        self.add_callback(GradientGuard())
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(_Bar())

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        if missing := set(ROW_FIELDS) - set(dataset.column_names):
            raise ValueError(f"rows of the {dataset_name} set lack {sorted(missing)}: encode the pairs first")
        return dataset

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not math.isfinite(value := float(loss)):
            raise diverged(f"the loss is {value}", self.state.global_step + 1)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        logs["seconds"] = round(time.monotonic() - self.began, 3)
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

    def __init__(self, trainer: IPOTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.log_history:
            last = state.log_history[-1]
            self._trainer.began -= last.get("seconds", 0.0)
            self._trainer._total_train_tokens = int(last.get("num_tokens", 0))


class _Bar(ProgressCallback):
    """transformers' progress bar with the figures beside it, instead of a line for each step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        bar: Any = self.training_bar
        if state.is_world_process_zero and bar is not None and logs:
            shown = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
            bar.set_postfix({short: f"{logs[key]:.3f}" for key, short in shown.items() if key in logs})
