"""The attention behind prefix sharing: one function that transformers calls, by the kind of mask that it is given.

A tensor mask goes to scaled_dot_product_attention, a block mask to compiled flex_attention, which skips the blocks that
no query sees. The kind travels with the call and not with the model's config, because gradient checkpointing runs a
layer again during the backward pass, when the config may already say something else.
"""

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from train.ipo.packing import PREFIX, visible

NAME = "shared_prefix"
Setting = Literal["auto", "sdpa", "flex", "off"]

# Below this many packed tokens the block mask costs as much as the skipped blocks save.
FLEX_FROM_TOKENS = 1024
FLEX_BLOCK = 128  # flex_attention's own block
# Compiled forms of flex_attention: with and without gradients, one row or several, rows of whole blocks or not, each
# for the first shape and for any. Beyond PyTorch's own limit of 8 it would be computed unfused, without an error.
COMPILED_FORMS = 32


def register() -> None:
    """Make `NAME` known to transformers as an attention implementation. Without a mask of ours it is plain sdpa."""
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attention_mask(branch: Tensor, setting: Setting) -> Tensor | BlockMask:
    """The mask of a packed batch `branch` [B, M] for the attention that suits its device and length."""
    long_enough = branch.shape[1] >= FLEX_FROM_TOKENS
    if setting == "flex" or (setting == "auto" and branch.device.type == "cuda" and long_enough):
        return block_mask(branch)
    return visible(branch)


def block_mask(branch: Tensor) -> BlockMask:
    """`packing.visible` as flex_attention wants it."""

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        of_key = branch[batch, key]
        return ((of_key == PREFIX) | (of_key == branch[batch, query])) & (query >= key)

    count, width = branch.shape
    return create_block_mask(sees, count, None, width, width, device=branch.device, BLOCK_SIZE=FLEX_BLOCK)


def shared_prefix_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: query [B, heads, M, D], key, value [B, kv heads, M, D] -> [B, M, heads, D]."""
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    heads, kv_heads = query.shape[1], key.shape[1]
    is_grouped = heads != kv_heads
    if is_grouped and heads & (heads - 1):  # flex_attention's grouped kernels want a power of two
        key, value, is_grouped = repeat_kv(key, heads // kv_heads), repeat_kv(value, heads // kv_heads), False
    out = _flex(query.device.type)(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=is_grouped)
    return out.transpose(1, 2).contiguous(), None


@cache
def _flex(device_type: str) -> Any:
    # Only the compiled form is a fused kernel; on a CPU the plain form serves tests of the mask.
    if device_type != "cuda":
        return flex_attention
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILED_FORMS)
    return torch.compile(flex_attention)
