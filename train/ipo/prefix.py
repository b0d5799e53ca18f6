"""Prefix sharing: the tokens that both sides of a pair share are computed once, exactly.

`SharingCollator` adds the packed form of a batch beside TRL's two-row form; `share_prefixes` wraps the forward of a
model's backbone so that it runs the packed form and gathers the hidden states back to the two-row form. What comes
before and after (TRL's loss, its reference pass, its LM head, its metrics) sees two rows and stays untouched.

Only architectures whose attention is causal, full and nothing else can be packed: a sliding window or a chunk counts
distance in rows, not in positions. All others keep two rows (`unsupported` says why).
"""

import logging
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.dpo_trainer import DataCollatorForPreference

from train.ipo.attention import NAME, Setting, attention_mask, register
from train.ipo.packing import pack, unpacked

log = logging.getLogger(__name__)

# Architectures that the parity tests cover.
SUPPORTED = ("llama", "mistral", "qwen2", "qwen3")
PACKED = "packed"  # the batch's key, and the argument of the wrapped forward
ROW_MULTIPLE = 8  # of tokens; matrix products on a GPU want no more, and a block of flex_attention may be cut


def unsupported(model: PreTrainedModel, setting: Setting) -> str | None:
    """Why this model's pairs must be trained as two rows; None when prefix sharing is exact for it."""
    config = model.config.get_text_config()
    if setting == "off":
        return "attention is set to off"
    if config is not model.config or config.model_type not in SUPPORTED:
        return f"the architecture {model.config.model_type} is not among {', '.join(SUPPORTED)}"
    layers = set(getattr(config, "layer_types", None) or [])
    if layers - {"full_attention"} or (not layers and getattr(config, "sliding_window", None)):
        return f"{config.model_type} has sliding-window layers in this model"
    if getattr(config, "attention_dropout", 0.0):
        return "the model drops out attention weights"
    return None


def share_prefixes(model: PreTrainedModel, setting: Setting) -> bool:
    """Wrap the backbone of `model` (before PEFT does); False, with a log line, where the model keeps two rows."""
    if why := unsupported(model, setting):
        log.warning("prefix sharing is off, each pair is trained as two rows: %s", why)
        return False
    register()
    model.set_attn_implementation(NAME)
    backbone = model.base_model
    plain_forward = backbone.forward

    def forward(self: torch.nn.Module, *args: Any, packed: dict[str, torch.Tensor] | None = None, **kwargs: Any) -> Any:
        if packed is None:
            return plain_forward(*args, **kwargs)
        kwargs |= {"input_ids": packed["ids"], "position_ids": packed["positions"]}
        # The mask is always explicit: without one, transformers reads positions that start again as sequence packing.
        kwargs["attention_mask"] = attention_mask(packed["branch"], setting)
        outputs = plain_forward(**kwargs)
        outputs["last_hidden_state"] = unpacked(outputs.last_hidden_state, packed["unpack"])
        return outputs

    backbone.forward = MethodType(forward, backbone)
    return True


@dataclass
class SharingCollator(DataCollatorForPreference):
    """TRL's batch {input_ids, attention_mask, completion_mask: [2B, L]} and, under `packed`, its packed form."""

    pad_packed_to: int = ROW_MULTIPLE

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        rows = [(e["prompt_ids"] + e["chosen_ids"], e["prompt_ids"] + e["rejected_ids"]) for e in examples]
        batch[PACKED] = pack(rows, batch["input_ids"].shape[1], self.pad_token_id, self.pad_packed_to)._asdict()
        return batch
