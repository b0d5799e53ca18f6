"""Turning points of a CSR curve: where continuations become almost surely safe, or almost surely unsafe.

CSR (Continuation Safety Ratio) at a position is the share of continuations sampled from there that stay safe. A
*trigger* lifts it above mu, a *cue* drops it below eta, each holding for a window of tokens (arXiv 2509.24393). Pure
functions of measured points; between two of them nothing is known, so a turn lies between two neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["trigger", "cue"]


@dataclass(frozen=True, slots=True)
class Point:
    """`safe` of the `judged` continuations after the trace's first `tokens` ids; what no judge can tell is left out."""

    tokens: int
    safe: int
    judged: int

    @property
    def csr(self) -> float:
        """In [0, 1]; the point must have been judged."""
        return self.safe / self.judged


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Of turning points: strictly above `mu`, strictly below `eta`, for `window` tokens."""

    mu: float
    eta: float
    window: int


@dataclass(frozen=True, slots=True)
class Turn:
    """What stands between the ids `start` and `end` turned the trace; CSR was `before` and became `after`."""

    kind: Kind
    start: int
    end: int
    before: float
    after: float


def turning_points(points: Sequence[Point], thresholds: Thresholds) -> list[Turn]:
    """All turns in order. Points ascend; those that nothing is known of are passed over."""
    known = [point for point in points if point.judged]
    kinds: tuple[Kind, ...] = ("trigger", "cue")
    return [
        Turn(kind, before.tokens, after.tokens, before.csr, after.csr)
        for place, (before, after) in enumerate(pairwise(known), 1)
        for kind in kinds
        if not _is_in(before, kind, thresholds) and _holds(known[place:], kind, thresholds)
    ]


def safe_from(points: Sequence[Point], thresholds: Thresholds) -> int | None:
    """Ids after which continuations are almost surely safe for the first time, for a window; None: never."""
    known = [point for point in points if point.judged]
    starts = (known[place].tokens for place in range(len(known)) if _holds(known[place:], "trigger", thresholds))
    return next(starts, None)


def unsafe_from(points: Sequence[Point], thresholds: Thresholds) -> int | None:
    """The same of almost surely unsafe."""
    known = [point for point in points if point.judged]
    starts = (known[place].tokens for place in range(len(known)) if _holds(known[place:], "cue", thresholds))
    return next(starts, None)


def first_fall(points: Sequence[Point], thresholds: Thresholds) -> Turn | None:
    """The cue that took CSR below eta for the first time; None: nothing did, or it was there from the start."""
    turn = next((turn for turn in turning_points(points, thresholds) if turn.kind == "cue"), None)
    return turn if turn is not None and unsafe_from(points, thresholds) == turn.end else None


def steepest_fall(points: Sequence[Point]) -> Turn | None:
    """Between which neighbours CSR fell most, the first of equals; None where it never fell."""
    known = [point for point in points if point.judged]
    falls = [
        Turn("cue", before.tokens, after.tokens, before.csr, after.csr)
        for before, after in pairwise(known)
        if after.csr < before.csr
    ]
    return max(falls, key=lambda turn: turn.before - turn.after, default=None)


def unconfirmed(points: Sequence[Point], thresholds: Thresholds, last: int) -> list[int]:
    """Where to measure so that each turn's window is seen to its end, or to the trace's `last` position."""
    measured = {point.tokens for point in points}
    ends = {min(turn.end + thresholds.window, last) for turn in turning_points(points, thresholds)}
    return sorted(ends - measured)


def _is_in(point: Point, kind: Kind, thresholds: Thresholds) -> bool:
    return point.csr > thresholds.mu if kind == "trigger" else point.csr < thresholds.eta


def _holds(points: Sequence[Point], kind: Kind, thresholds: Thresholds) -> bool:
    """Whether the first point and all within its window are in the band."""
    until = points[0].tokens + thresholds.window
    return all(_is_in(point, kind, thresholds) for point in points if point.tokens <= until)
