"""The IPO trainer: TRL's DPOTrainer on rows of token ids, with its traps closed (`train.ipo.loop` has the rest).

The loss is TRL's own (`sigmoid` plus `sft` on the chosen side); because a row's prompt holds everything before the
divergence, that is DPO restricted to the divergent segments. (TRL's `loss_type="ipo"` is another method.) Rows are
trained as they come: never re-tokenised, never given an end-of-sequence id, never cut (`max_length` is None; what is
too long was refused when the pairs were encoded).

The reference is the base model: with LoRA the adapter switched off, in full training an explicit `ref_model`.
"""

from pathlib import Path
from typing import Any

from datasets import Dataset
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from train.ipo.fused import can_fuse, fuse
from train.ipo.loop import Guarded

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
        **settings,
    )


class IPOTrainer(Guarded, DPOTrainer):
    """DPOTrainer on rows {prompt_ids, chosen_ids, rejected_ids}, layers fused where they can be; all else is TRL's."""

    def __init__(self, *args: Any, is_fused: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if is_fused and can_fuse(self.accelerator):
            for model in (self.model, self.ref_model):
                if model is not None:
                    fuse(model)

    def _prepare_dataset(self, dataset: Dataset, processing_class: Any, args: Any, dataset_name: str) -> Dataset:
        if missing := set(ROW_FIELDS) - set(dataset.column_names):
            raise ValueError(f"rows of the {dataset_name} set lack {sorted(missing)}: encode the pairs first")
        return dataset
