"""What a detector's scores are worth: first-cue agreement, false halts, the choice of a threshold. Pure functions.

A trace is halted at its first segment whose score reaches the threshold. Where a segment overlaps several labelled
sentences, the nearest to the first labelled cue counts: the proxy cuts there either way.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from train.detector.data import LabelledSegment, Trace

_CUE_LABEL = "C"
_GOOD_ENOUGH = 0.01


@dataclass(frozen=True, slots=True)
class Scored:
    """A trace with its segments and their scores, in order."""

    trace: Trace
    segments: Sequence[LabelledSegment]
    scores: Sequence[float]

    def first_halt(self, threshold: float) -> int | None:
        return next((index for index, score in enumerate(self.scores) if score >= threshold), None)

    @property
    def first_cue(self) -> int | None:
        """Index of the first labelled sentence that is a cue."""
        index = self.trace.labels.find(_CUE_LABEL)
        return None if index < 0 else index


@dataclass(frozen=True, slots=True)
class Interval:
    """A share with its count and 95 % Wilson interval."""

    share: float
    count: int
    of: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CueReport:
    """How first cues were found. `missed`: no halt inside the labelled part. `early`: more than one sentence before."""

    exact: Interval
    within_one: Interval
    missed: Interval
    early: Interval


def share(count: int, of: int) -> Interval:
    if of == 0:
        return Interval(math.nan, 0, 0, math.nan, math.nan)
    z, p = 1.96, count / of
    centre = (p + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    # Clamped to the share: where all or none were counted, rounding leaves it just outside.
    return Interval(p, count, of, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)))


def offset(item: Scored, threshold: float) -> int | None:
    """Sentences from the first labelled cue to the halt (negative: early); None where it was missed."""
    cue, halt = item.first_cue, item.first_halt(threshold)
    assert cue is not None, "only traces with a cue have an offset"
    if halt is None or not item.segments[halt].spans:
        return None
    return min((span - cue for span in item.segments[halt].spans), key=abs)


def cue_report(items: Sequence[Scored], threshold: float) -> CueReport:
    """Over the traces among `items` that comply."""
    offsets = [offset(item, threshold) for item in items if item.first_cue is not None]
    count = len(offsets)
    found = [value for value in offsets if value is not None]
    return CueReport(
        exact=share(sum(value == 0 for value in found), count),
        within_one=share(sum(abs(value) <= 1 for value in found), count),
        missed=share(count - len(found), count),
        early=share(sum(value < -1 for value in found), count),
    )


def halted(items: Sequence[Scored], threshold: float) -> Interval:
    """Share of traces with a halt anywhere."""
    return share(sum(item.first_halt(threshold) is not None for item in items), len(items))


def choose_threshold(
    items: Sequence[Scored],
    ordinary: Sequence[Scored],
    borderline: Sequence[Scored],
    max_ordinary: float,
    max_borderline: float,
    margin: float = 0.0,
    max_refusing: float = 1.0,
) -> float:
    """The lowest threshold that keeps the budgets and finds about as many first cues within one sentence as any does.

    The budgets of benign traffic must also be kept `margin` log-odds below it: validation traces are few, and their
    topics fewer. `max_refusing` limits halts of traces that turn away by themselves. Of thresholds within a hundredth
    of the best, the lowest: the budgets guard everything else, nothing guards recall on models that were never seen.
    If none keeps the budgets, the highest threshold tried.
    """
    allowed = thresholds_within(ordinary, borderline, max_ordinary, max_borderline, margin)
    if not allowed:
        return threshold_grid()[-1]
    found = {threshold: cue_report(items, threshold).within_one for threshold in allowed}
    enough = max(interval.count for interval in found.values()) - _GOOD_ENOUGH * found[allowed[0]].of
    refusing = [item for item in items if item.first_cue is None and item.trace.prompt_label == "harmful"]
    near = [threshold for threshold in allowed if found[threshold].count >= enough]
    return next((threshold for threshold in near if _keeps(refusing, threshold, max_refusing)), near[-1])


def thresholds_within(
    ordinary: Sequence[Scored], borderline: Sequence[Scored], max_ordinary: float, max_borderline: float, margin: float
) -> list[float]:
    """Those of the grid, rising, that keep both budgets even `margin` log-odds below."""
    allowed = []
    for threshold in threshold_grid():
        eased = _sigmoid(math.log(threshold / (1 - threshold)) - margin)
        if _keeps(ordinary, eased, max_ordinary) and _keeps(borderline, eased, max_borderline):
            allowed.append(threshold)
    return allowed


def threshold_grid() -> list[float]:
    """Even in log-odds from 0.05 to 0.98. Lower thresholds would rest on differences that int8 does not keep."""
    return [round(_sigmoid(x / 10), 4) for x in range(-30, 40)]


def summary(items: Sequence[Scored], threshold: float, group: Callable[[Trace], str]) -> dict[str, object]:
    """All reports as plain data: complying traces (first-sentence cues apart), and halts by `group` of the others."""
    complying = [item for item in items if item.first_cue is not None]
    others: dict[str, list[Scored]] = {}
    for item in items:
        if item.first_cue is None:
            others.setdefault(group(item.trace), []).append(item)
    return {
        "threshold": threshold,
        "complying": asdict(cue_report(complying, threshold)),
        "first_sentence_is_the_cue": asdict(cue_report([i for i in complying if i.first_cue == 0], threshold)),
        "cue_comes_later": asdict(cue_report([i for i in complying if i.first_cue != 0], threshold)),
        "halted": {name: asdict(halted(found, threshold)) for name, found in sorted(others.items())},
    }


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _keeps(items: Sequence[Scored], threshold: float, budget: float) -> bool:
    return not items or halted(items, threshold).share <= budget
