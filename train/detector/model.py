"""The student: a request encoder and a segment scorer that share one table of word vectors.

The request encoder (deep, once per conversation) turns the request into a few vectors. The segment scorer (shallow,
once per segment) reads the segment and attends to those vectors, so that the request's harm is known where commitment
is judged, at the cost of a few positions. Both are BERT layers, written out so that they start from BERT weights, take
word vectors as input (the table is served as int8 outside the graphs) and export as plain operators.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from detector.context import MAX_REQUEST_TOKENS, MAX_SEGMENT_TOKENS

CLASSES = 3
_EPSILON = 1e-12


class Sizes(NamedTuple):
    width: int
    heads: int
    inner: int
    slots: int
    request_layers: int
    segment_layers: int
    vocabulary: int
    dropout: float


class Layer(nn.Module):
    """A post-norm transformer layer as in BERT. `fused`: one attention kernel, for long inputs of few shapes."""

    def __init__(self, sizes: Sizes, fused: bool = False) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.fused = fused
        self.query = nn.Linear(sizes.width, sizes.width)
        self.key = nn.Linear(sizes.width, sizes.width)
        self.value = nn.Linear(sizes.width, sizes.width)
        self.out = nn.Linear(sizes.width, sizes.width)
        self.norm = nn.LayerNorm(sizes.width, eps=_EPSILON)
        self.up = nn.Linear(sizes.width, sizes.inner)
        self.down = nn.Linear(sizes.inner, sizes.width)
        self.norm_out = nn.LayerNorm(sizes.width, eps=_EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)

    def forward(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """x [batch, length, width]; seen [batch, 1, 1, length] says which positions exist, None: all."""
        batch, length, width = x.shape
        split = (batch, length, self.heads, width // self.heads)
        query = self.query(x).view(split).transpose(1, 2)
        key = self.key(x).view(split).transpose(1, 2)
        value = self.value(x).view(split).transpose(1, 2)
        if self.fused:
            attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        else:
            # Fused attention plans anew for each shape, and a student's batches have each a shape of their own.
            logits = query @ key.transpose(-1, -2) / math.sqrt(width // self.heads)
            if seen is not None:
                logits = logits.masked_fill(~seen, -1e4)
            attended = torch.softmax(logits, dim=-1) @ value
        mixed = attended.transpose(1, 2).reshape(batch, length, width)
        x = self.norm(x + self.dropout(self.out(mixed)))
        return self.norm_out(x + self.dropout(self.down(functional.gelu(self.up(x)))))


class Encoder(nn.Module):
    """Word vectors in, hidden states out."""

    def __init__(self, sizes: Sizes, layers: int, positions: int, fused: bool = False) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(positions, sizes.width))
        self.types = nn.Parameter(torch.zeros(2, sizes.width))
        self.norm = nn.LayerNorm(sizes.width, eps=_EPSILON)
        self.dropout = nn.Dropout(sizes.dropout)
        self.layers = nn.ModuleList([Layer(sizes, fused) for _ in range(layers)])

    def embed(self, words: Tensor, types: Tensor) -> Tensor:
        picked = self.types[0] + types.unsqueeze(-1).to(words.dtype) * (self.types[1] - self.types[0])
        return self.dropout(self.norm(words + self.positions[: words.shape[1]] + picked))

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        seen = None if mask is None else mask[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        return x


class RequestEncoder(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.slots = sizes.slots
        self.encoder = Encoder(sizes, sizes.request_layers, MAX_REQUEST_TOKENS)
        self.project = nn.Linear(sizes.width, sizes.slots * sizes.width)
        self.norm = nn.LayerNorm(sizes.width)
        self.harm = nn.Linear(2 * sizes.width, 1)

    def forward(self, words: Tensor, types: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Vectors [batch, slots, width] and harm logits [batch] of requests [batch, length, width]."""
        hidden = self.encoder(self.encoder.embed(words, types), mask)
        pooled = torch.cat([hidden[:, 0], mean(hidden, mask)], dim=-1)
        vectors = self.norm(self.project(hidden[:, 0]).view(-1, self.slots, hidden.shape[-1]))
        return vectors, self.harm(pooled).squeeze(-1)


class SegmentScorer(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes, sizes.segment_layers, MAX_SEGMENT_TOKENS)
        self.slot_types = nn.Parameter(torch.zeros(sizes.slots, sizes.width))
        self.hidden = nn.Linear(2 * sizes.width, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.out = nn.Linear(sizes.width, CLASSES)

    def forward(self, request: Tensor, words: Tensor, types: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [batch, classes] of segments [batch, length, width] after request vectors [batch, slots, width]."""
        x = torch.cat([self.encoder.embed(words, types), request + self.slot_types], dim=1)
        if mask is not None:
            mask = torch.cat([mask, torch.ones_like(mask[:, : request.shape[1]])], dim=1)
        hidden = self.encoder(x, mask)[:, : words.shape[1]]
        weights = types if mask is None else types * mask[:, : words.shape[1]]
        pooled = torch.cat([hidden[:, 0], mean(hidden, weights)], dim=-1)
        return self.out(self.dropout(functional.gelu(self.hidden(pooled))))


class Student(nn.Module):
    """Both parts with their common word vectors; for training."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.request = RequestEncoder(sizes)
        self.segment = SegmentScorer(sizes)

    def encode(self, ids: Tensor, types: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        encoded: tuple[Tensor, Tensor] = self.request(self.words(ids), types, mask)
        return encoded

    def score(self, request: Tensor, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.segment(request, self.words(ids), types, mask)
        return logits


def mean(hidden: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over positions [batch, width], weighted by [batch, length]; None: all alike."""
    if weights is None:
        return hidden.mean(dim=1)
    scale = weights.unsqueeze(-1).to(hidden.dtype)
    return (hidden * scale).sum(dim=1) / scale.sum(dim=1).clamp(min=1.0)


def build_student(
    tensors: dict[str, Tensor], request_layers: Sequence[int], segment_layers: Sequence[int], slots: int, dropout: float
) -> Student:
    """A student that starts from BERT weights: the named layers, in order, and all embeddings."""
    table = tensors["embeddings.word_embeddings.weight"]
    inner = tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
    sizes = Sizes(
        table.shape[1],
        table.shape[1] // 32,
        inner,
        slots,
        len(request_layers),
        len(segment_layers),
        table.shape[0],
        dropout,
    )
    student = Student(sizes)
    with torch.no_grad():
        student.words.weight.copy_(table)
    load_layers(student.request.encoder, tensors, request_layers)
    load_layers(student.segment.encoder, tensors, segment_layers)
    return student


@torch.no_grad()
def load_layers(encoder: Encoder, tensors: dict[str, Tensor], layers: Sequence[int]) -> None:
    """Start `encoder` from BERT weights: the named layers, in order, and the embeddings but for the words."""
    encoder.positions.copy_(tensors["embeddings.position_embeddings.weight"][: len(encoder.positions)])
    encoder.types.copy_(tensors["embeddings.token_type_embeddings.weight"])
    encoder.norm.load_state_dict(_part(tensors, "embeddings.LayerNorm"))
    for layer, index in zip(encoder.layers, layers, strict=True):
        _load_layer(layer, tensors, f"encoder.layer.{index}")


def _load_layer(layer: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    parts = {
        "query": "attention.self.query", "key": "attention.self.key", "value": "attention.self.value",
        "out": "attention.output.dense", "norm": "attention.output.LayerNorm",
        "up": "intermediate.dense", "down": "output.dense", "norm_out": "output.LayerNorm",
    }  # fmt: skip
    for ours, theirs in parts.items():
        getattr(layer, ours).load_state_dict(_part(tensors, f"{name}.{theirs}"))


def _part(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {kind: tensors[f"{name}.{kind}"] for kind in ("weight", "bias")}
