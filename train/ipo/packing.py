"""Packs a batch of pairs so that the tokens both sides share are computed once. Tensors only; no model.

TRL stacks a batch as [2B, L]: the chosen rows, then the rejected rows, right-padded. Here each pair becomes one row:

    prefix[:-1] | last, chosen | last, rejected        that is: chosen_row + rejected_row[P - 1:], P tokens shared

The last shared token is there twice, once at the head of each branch, so that the hidden state that predicts a branch's
first token belongs to that branch and label shifting needs no special case. Both branches count positions from P - 1,
and each sees the prefix and itself alone: every hidden state is what the two-row batch gives. `unpack` says where.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

PREFIX, CHOSEN, REJECTED, PADDING = 0, 1, 2, 3


class Packed(NamedTuple):
    """B pairs in B rows of M tokens, and the way back to 2B rows of L. All are int64."""

    ids: Tensor  # [B, M]
    positions: Tensor  # [B, M]
    branch: Tensor  # [B, M]: PREFIX, CHOSEN, REJECTED or PADDING
    unpack: Tensor  # [2B, L]: the column of a pair's packed row; 0 where the two-row batch is padded


def shared_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of tokens that two rows have in common at their start."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))


def pack(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], length: int, pad_id: int, multiple: int = 8) -> Packed:
    """Pack (chosen row, rejected row) pairs; `length` is L of the two-row batch, `multiple` rounds M up.

    Raises ValueError when two rows share no token: there is no last shared token to start the branches with.
    """
    rows = [_row(chosen, rejected) for chosen, rejected in pairs]
    width = -(-max(len(row.ids) for row in rows) // multiple) * multiple
    return Packed(
        _padded([row.ids for row in rows], width, pad_id),
        _padded([row.positions for row in rows], width, 0),
        _padded([row.branch for row in rows], width, PADDING),
        _padded([row.chosen for row in rows] + [row.rejected for row in rows], length, 0),
    )


def visible(branch: Tensor) -> Tensor:
    """The attention mask as a bool tensor [B, 1, M, M]: True where the query (row) may see the key (column).

    Padding sees the prefix and itself, so that no query sees nothing; nothing else sees padding.
    """
    query, key = branch[:, None, :, None], branch[:, None, None, :]
    index = torch.arange(branch.shape[1], device=branch.device)
    return ((key == PREFIX) | (key == query)) & (index[:, None] >= index[None, :])


def unpacked(hidden: Tensor, unpack: Tensor) -> Tensor:
    """Hidden states [B, M, H] as the two-row batch has them, [2B, L, H]. Where that batch is padded the values are of
    no meaning, but finite."""
    count, width, size = hidden.shape
    row = torch.arange(count, device=hidden.device).repeat(2)
    flat = (unpack + (row * width)[:, None]).reshape(-1)
    return hidden.reshape(count * width, size).index_select(0, flat).view(2 * count, unpack.shape[1], size)


class _Row(NamedTuple):
    ids: list[int]
    positions: list[int]
    branch: list[int]
    chosen: list[int]
    rejected: list[int]


def _row(chosen: Sequence[int], rejected: Sequence[int]) -> _Row:
    shared = shared_length(chosen, rejected)
    if not shared:
        raise ValueError("the two rows of a pair share no token")
    start = shared - 1
    return _Row(
        ids=[*chosen, *rejected[start:]],
        positions=[*range(len(chosen)), *range(start, len(rejected))],
        branch=[PREFIX] * start + [CHOSEN] * (len(chosen) - start) + [REJECTED] * (len(rejected) - start),
        chosen=list(range(len(chosen))),
        rejected=[*range(start), *range(len(chosen), len(chosen) + len(rejected) - start)],
    )


def _padded(rows: Sequence[Sequence[int]], width: int, value: Any) -> Tensor:
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.int64)
