"""The teacher: a deeper cross-encoder that reads request, longer context and segment together.

Too slow to serve: about fifty times the student's cost per segment, growing with the prompt. Here it softens the data's
labels: each of K teachers leaves out one fold of the conversations and labels it, so that no label comes from a model
that was trained on it; conversations without labels take the mean of all. The student then learns from both.
"""

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from detector.context import Ids, Tokens
from train.detector.base import Base
from train.detector.config import FitConfig, TeacherConfig
from train.detector.data import DataError
from train.detector.examples import UNLABELLED, Examples, Group
from train.detector.fit import Report, epoch_batches
from train.detector.model import CLASSES, Encoder, Sizes, load_layers, mean
from train.detector.soup import write_weights

_REQUEST_TOKENS = 300
_MAX_TOKENS = 512
# Batches are padded to a multiple of this: fused attention plans anew for each shape.
_PAD_TO = 32


class Pair(NamedTuple):
    """What a teacher is asked: a request and a segment, as indices into `Examples`, with its class and weight."""

    request: int
    segment: int
    label: int
    weight: float


class Teacher(nn.Module):
    """Logits [batch, classes] of token ids and types [batch, length]."""

    def __init__(self, sizes: Sizes, layers: int) -> None:
        super().__init__()
        self.words = nn.Embedding(sizes.vocabulary, sizes.width)
        self.encoder = Encoder(sizes, layers, _MAX_TOKENS, fused=True)
        self.hidden = nn.Linear(2 * sizes.width, sizes.width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.out = nn.Linear(sizes.width, CLASSES)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(self.encoder.embed(self.words(ids), types), mask)
        pooled = torch.cat([hidden[:, 0], mean(hidden, types * mask)], dim=-1)
        logits: Tensor = self.out(self.dropout(functional.gelu(self.hidden(pooled))))
        return logits


def build_teacher(base: Base, layers: Sequence[int], dropout: float) -> Teacher:
    """A teacher that starts from BERT weights."""
    table = base.tensors["embeddings.word_embeddings.weight"]
    inner = base.tensors["encoder.layer.0.intermediate.dense.weight"].shape[0]
    width = table.shape[1]
    teacher = Teacher(Sizes(width, width // 32, inner, 0, 0, 0, table.shape[0], dropout), len(layers))
    with torch.no_grad():
        teacher.words.weight.copy_(table)
    load_layers(teacher.encoder, base.tensors, layers)
    return teacher


def soft_labels(
    base: Base, examples: Examples, config: TeacherConfig, fit: FitConfig, out: Path, report: Report
) -> NDArray[np.float32]:
    """Teachers' probabilities [segments, classes]; trains the teachers first. Resumed by fold."""
    cache = out / "soft.npz"
    mark = fingerprint(examples)
    stored = cache if cache.exists() else config.labels
    if stored is not None:
        report(f"the teachers' labels are in {stored}")
        return read_labels(stored, mark)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    soft = np.full((len(examples.segments), CLASSES), np.nan, dtype=np.float32)
    total = np.zeros((len(examples.segments), CLASSES), dtype=np.float32)
    unlabelled = [group for group in examples.groups if any(row.label == UNLABELLED for row in group.rows)]
    labelled = [group for group in examples.groups if group.rows and group.rows[0].label != UNLABELLED]
    for fold in range(config.folds):
        # One teacher alone has no other to label its own data: it labels all, trained on all.
        own = [g for g in labelled if g.fold % config.folds == fold] if config.folds > 1 else labelled
        rest = [g for g in labelled if g.fold % config.folds != fold] if config.folds > 1 else labelled
        teacher = _trained(base, examples, rest, config, fit, out / f"teacher-{fold}.safetensors", fold, report).to(
            device
        )
        _score(teacher, examples, own, soft, config)
        _score(teacher, examples, unlabelled, total, config)
    for group in unlabelled:
        rows = [row.segment for row in group.rows]
        soft[rows] = total[rows] / config.folds
        total[rows] = 0
    temporary = cache.with_suffix(".part.npz")
    np.savez_compressed(temporary, soft=soft.astype(np.float16), mark=np.array(mark))
    temporary.replace(cache)
    report(f"teachers labelled {int((~np.isnan(soft[:, 0])).sum())} segments")
    return soft


def fingerprint(examples: Examples) -> str:
    """Changes with any request or segment, their order, or a tokenizer: labels are kept by position."""
    digest = hashlib.sha256()
    for tokens in (*examples.requests, *examples.segments):
        digest.update(tokens.ids.astype(np.int32).tobytes() + b"/")
    return digest.hexdigest()


def read_labels(path: Path, mark: str) -> NDArray[np.float32]:
    """The labels in `path`. Raises `DataError` where they were made for other examples than those of `mark`."""
    try:
        with np.load(path) as stored:
            soft, made_for = np.asarray(stored["soft"], dtype=np.float32), str(stored["mark"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path}: not a file of a teacher's labels ({error})") from error
    if made_for != mark:
        raise DataError(f"{path}: made from other data, another seed or another vocabulary; drop it and train teachers")
    return soft


def pair_tokens(request: Tokens, wide: Ids, segment: Tokens) -> Tokens:
    """[CLS] request [SEP] reasoning before [SEP] as type 0, segment [SEP] as type 1; at most 480 tokens."""
    asked, separator = request.ids[:_REQUEST_TOKENS], segment.ids[-1:]
    piece = segment.ids[segment.types == 1]
    ids = np.concatenate([asked, wide, separator, piece])
    types = np.zeros(len(ids), dtype=np.int64)
    types[-len(piece) :] = 1
    return Tokens(ids, types)


def _trained(
    base: Base, examples: Examples, groups: Sequence[Group], config: TeacherConfig, fit: FitConfig,
    path: Path, fold: int, report: Report,
) -> Teacher:  # fmt: skip
    torch.manual_seed(1000 * fit.seed + fold)
    teacher = build_teacher(base, config.layers, 0.1)
    if path.exists():
        teacher.load_state_dict({name: value.float() for name, value in load_file(path).items()})
        return teacher.eval()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    teacher.to(device).train()
    sizes = [len(tokens.ids) for tokens in examples.requests]
    epochs = [
        list(_pair_batches(examples, _drawn(groups, sizes, fit, 100 * fold + epoch), config.tokens_per_batch, epoch))
        for epoch in range(config.epochs)
    ]
    steps = sum(map(len, epochs))
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, config.learning_rate, total_steps=steps + 1, pct_start=0.06
    )
    for number, batches in enumerate(epochs, 1):
        total = torch.zeros((), device=device)
        for batch in batches:
            labels = torch.tensor([pair.label for pair in batch], device=device)
            weights = torch.tensor([pair.weight for pair in batch], device=device)
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                logits = teacher(*_tensors(examples, batch, device))
            losses = functional.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=0.02)
            loss = (losses * weights).sum() / weights.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        report(f"teacher {fold}, epoch {number}/{config.epochs}: loss {float(total) / max(1, len(batches)):.4f}")
    write_weights(teacher.state_dict(), path)
    return teacher.eval()


def _drawn(groups: Sequence[Group], sizes: Sequence[int], fit: FitConfig, epoch: int) -> list[Pair]:
    """What the student would draw in an epoch, as pairs."""
    return [
        Pair(batch.requests[owner], row.segment, row.label, row.weight)
        for batch in epoch_batches(groups, sizes, fit, epoch)
        for row, owner in zip(batch.rows, batch.owners, strict=True)
    ]


def _pair_batches(examples: Examples, pairs: list[Pair], tokens: int, seed: int) -> list[list[Pair]]:
    """Batches of pairs about as long as each other, at most `tokens` padded tokens each, in random order."""
    by_length = sorted(pairs, key=lambda pair: _length(examples, pair))
    batches: list[list[Pair]] = []
    current: list[Pair] = []
    for pair in by_length:
        longest = _padded(_length(examples, pair))
        if current and longest * (len(current) + 1) > tokens:
            batches.append(current)
            current = []
        current.append(pair)
    if current:
        batches.append(current)
    random.Random(seed).shuffle(batches)
    return batches


@torch.no_grad()
def _score(
    teacher: Teacher, examples: Examples, groups: Sequence[Group], into: NDArray[np.float32], config: TeacherConfig
) -> None:
    """Add the teacher's probabilities of every row of `groups`; NaN counts as nothing so far."""
    device = next(teacher.parameters()).device
    pairs = [Pair(group.requests[0], row.segment, row.label, 1.0) for group in groups for row in group.rows]
    for batch in _pair_batches(examples, pairs, 4 * config.tokens_per_batch, 0):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = teacher(*_tensors(examples, batch, device))
        found = torch.softmax(logits.float(), dim=-1).cpu().numpy()
        rows = [pair.segment for pair in batch]
        into[rows] = np.nan_to_num(into[rows]) + found


def _length(examples: Examples, pair: Pair) -> int:
    asked = min(_REQUEST_TOKENS, len(examples.requests[pair.request].ids))
    return asked + len(examples.wide[pair.segment]) + len(examples.segments[pair.segment].ids)


def _padded(length: int) -> int:
    return -(-length // _PAD_TO) * _PAD_TO


def _tensors(examples: Examples, batch: Sequence[Pair], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """ids, types and mask, each [batch, padded length]."""
    tokens = [
        pair_tokens(examples.requests[p.request], examples.wide[p.segment], examples.segments[p.segment]) for p in batch
    ]
    length = min(_MAX_TOKENS, _padded(max(len(t.ids) for t in tokens)))
    ids = np.zeros((len(batch), length), dtype=np.int64)
    types, mask = np.zeros_like(ids), np.zeros((len(batch), length), dtype=bool)
    for row, found in enumerate(tokens):
        ids[row, : len(found.ids)] = found.ids
        types[row, : len(found.ids)] = found.types
        mask[row, : len(found.ids)] = True
    return (
        torch.from_numpy(ids).to(device), torch.from_numpy(types).to(device), torch.from_numpy(mask).to(device)
    )  # fmt: skip
