"""How far the teacher agrees with labels that are there already: people's, or another teacher's. Pure functions.

Reference labels stand on sentences of their own; they are mapped onto the segmenter's as in training
(`train.detector.data.label_segments`). Only sentences that both have labelled count, also for where the first cue is.
Intervals are 95 % percentile bootstrap intervals over conversations: sentences of one conversation are not independent.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.detector.data import LABELS, Trace, label_segments
from train.label.item import Item, Labelled, PromptLabel

Counts = NDArray[np.int64]

_CUE = LABELS.index("C")
_VERDICTS: tuple[PromptLabel, ...] = ("harmful", "benign")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval. `of`: conversations (or sentences) behind it. None: they don't decide it."""

    value: float | None
    low: float | None
    high: float | None
    of: int


@dataclass(frozen=True, slots=True)
class Compared:
    """One conversation as both see it: classes of the sentences that both labelled, in order."""

    reference: tuple[int, ...]
    teacher: tuple[int, ...]
    reference_verdict: PromptLabel
    teacher_verdict: PromptLabel

    @property
    def first_cues(self) -> tuple[int | None, int | None]:
        """Index of the first cue in the reference's and in the teacher's labels."""
        return _first(self.reference), _first(self.teacher)


def compare(item: Item, labelled: Labelled, reference: Trace) -> Compared:
    """`reference` is a labelled trace of the same reasoning."""
    known = {(piece.start, piece.end): piece.label for piece in label_segments(reference)}
    pairs = [
        (wanted, LABELS.index(letter))
        for index, (span, letter) in enumerate(zip(item.spans, labelled.letters, strict=False))
        if (wanted := known.get(span)) is not None and index not in item.spliced
    ]
    return Compared(
        reference=tuple(wanted for wanted, _ in pairs),
        teacher=tuple(letter for _, letter in pairs),
        reference_verdict=reference.prompt_label,
        teacher_verdict=labelled.prompt_label,
    )


def agreement(items: Sequence[Compared], resamples: int, seed: int) -> dict[str, Any]:
    """Sentences, requests and first cues, as plain data for the report."""
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(items), np.full(len(items), 1 / max(1, len(items))), size=resamples)
    sentences = np.array([_confusion(item.reference, item.teacher, len(LABELS)) for item in items])
    requests = np.array([_confusion(*_verdicts(item), len(_VERDICTS)) for item in items])
    return {
        "conversations": len(items),
        "sentence_agreement": _estimate(sentences, weights, _observed),
        "sentence_kappa": _estimate(sentences, weights, kappa),
        "request_agreement": _estimate(requests, weights, _observed),
        "request_kappa": _estimate(requests, weights, kappa),
        "first_cue": _cues(items, weights, lambda cue: cue is not None),
        "first_cue_in_first_sentence": _cues(items, weights, lambda cue: cue == 0),
        "first_cue_later": _cues(items, weights, lambda cue: bool(cue)),
        "cue_where_reference_has_none": _share(items, weights, lambda cue: cue is None, lambda _, own: own is not None),
        "sentences": sentences.sum(axis=0).tolist(),
        "requests": requests.sum(axis=0).tolist(),
    }


def kappa(confusion: Counts) -> float:
    """Cohen's kappa of a table [k, k] of counts; NaN where chance alone would agree always, or the table is empty."""
    total = confusion.sum()
    if total == 0:
        return math.nan
    observed = np.trace(confusion) / total
    chance = float((confusion.sum(axis=0) * confusion.sum(axis=1)).sum() / total**2)
    return math.nan if chance == 1 else float((observed - chance) / (1 - chance))


def _observed(confusion: Counts) -> float:
    total = confusion.sum()
    return float(np.trace(confusion) / total) if total else math.nan


def _cues(items: Sequence[Compared], weights: Counts, takes: Callable[[int | None], bool]) -> dict[str, Any]:
    """Where the teacher's first cue lies, over conversations whose reference has one that `takes` accepts."""

    def share(holds: Callable[[int, int | None], bool]) -> dict[str, Any]:
        return _share(items, weights, takes, lambda cue, own: cue is not None and holds(cue, own))

    return {
        "exact": share(lambda cue, own: own == cue),
        "within_one": share(lambda cue, own: own is not None and abs(own - cue) <= 1),
        "missed": share(lambda _, own: own is None),
        "early": share(lambda cue, own: own is not None and own < cue - 1),
    }


def _share(
    items: Sequence[Compared],
    weights: Counts,
    takes: Callable[[int | None], bool],
    holds: Callable[[int | None, int | None], bool],
) -> dict[str, Any]:
    """Share of the conversations that `takes` accepts by the reference's first cue for which `holds` is true."""
    tables = np.zeros((len(items), 2, 2), dtype=np.int64)
    for index, item in enumerate(items):
        cue, own = item.first_cues
        if takes(cue):
            is_true = int(holds(cue, own))
            tables[index, is_true, is_true] = 1 if is_true else 0
            tables[index, 0, 1] = 1 - is_true
    return _estimate(tables, weights, _observed)


def _estimate(tables: Counts, weights: Counts, figure: Callable[[Counts], float]) -> dict[str, Any]:
    """`tables` [conversations, k, k]; `weights` [resamples, conversations]."""
    if not len(tables):
        return asdict(Estimate(None, None, None, 0))
    drawn = np.array([figure(table) for table in np.tensordot(weights, tables, axes=1)])
    drawn = drawn[~np.isnan(drawn)]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (math.nan, math.nan)
    total = tables.sum(axis=0)
    value, low, high = (None if math.isnan(found) else float(found) for found in (figure(total), low, high))
    return asdict(Estimate(value, low, high, int(total.sum())))


def _verdicts(item: Compared) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (_VERDICTS.index(item.reference_verdict),), (_VERDICTS.index(item.teacher_verdict),)


def _confusion(rows: Sequence[int], columns: Sequence[int], size: int) -> Counts:
    table = np.zeros((size, size), dtype=np.int64)
    np.add.at(table, (np.array(rows, dtype=np.int64), np.array(columns, dtype=np.int64)), 1)
    return table


def _first(classes: Sequence[int]) -> int | None:
    return next((index for index, found in enumerate(classes) if found == _CUE), None)
