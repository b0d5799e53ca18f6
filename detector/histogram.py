"""Scores in fixed bins, and how much the scores of one trace resemble each other.

Bins are even in log-odds: a classifier's scores crowd near 0 and 1, where bins of equal width would hold everything
in one. For comparisons neighbouring bins are put into about ten *groups* of like weight in the reference, those at the
top smaller, since that is where cues are.

Scores of one trace are not independent: forty segments of one strange trace are one strange trace. `design_effect`
is by how much that widens the variance of a group's share over that of independent scores (Kish 1965), of the group
where it does so most: the mean over groups (Rao and Scott 1981) alarms too often where groups differ. A sample of n
scores is worth n / design_effect. It is 1 where a trace gives one score.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

LOW, HIGH, PER_UNIT = -10, 7, 4  # log-odds: 0.00005 to 0.999, four bins a unit; beyond is noise of int8
NUM_BINS = (HIGH - LOW) * PER_UNIT + 2
BINNING = f"log-odds {LOW}..{HIGH} by 1/{PER_UNIT}"
# Where groups end, as shares of the reference. Finer at the top: a few cues more are what a drift alarm is for.
_GROUP_ENDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97)


def bin_of(score: float) -> int:
    """The bin of a score in [0, 1]."""
    if score <= 0:
        return 0
    if score >= 1:
        return NUM_BINS - 1
    place = math.floor((math.log(score / (1 - score)) - LOW) * PER_UNIT) + 1
    return min(max(place, 0), NUM_BINS - 1)


def bin_edges() -> list[float]:
    """The NUM_BINS - 1 scores between bins."""
    return [1 / (1 + math.exp(-(LOW + place / PER_UNIT))) for place in range(NUM_BINS - 1)]


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of NUM_BINS bins over `traces` traces. `groups`: the first bin of every group but the first."""

    counts: tuple[int, ...]
    groups: tuple[int, ...]
    traces: int
    design_effect: float = 1.0

    @property
    def size(self) -> int:
        """Number of scores."""
        return sum(self.counts)

    def grouped(self, groups: Sequence[int]) -> list[int]:
        """Counts by the groups given, this histogram's own or another's."""
        ends = [0, *groups, NUM_BINS]
        return [sum(self.counts[start:end]) for start, end in pairwise(ends)]

    def to_json(self) -> dict[str, object]:
        """What `from_json` reads."""
        return {
            "counts": list(self.counts),
            "groups": list(self.groups),
            "traces": self.traces,
            "design_effect": self.design_effect,
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Histogram":
        """Raises KeyError, TypeError or ValueError for anything but the output of `to_json`."""
        counts, groups = tuple(map(int, fields["counts"])), tuple(map(int, fields["groups"]))
        if len(counts) != NUM_BINS or min(counts) < 0:
            raise ValueError(f"counts must be {NUM_BINS} numbers from 0 up")
        if list(groups) != sorted({*groups}) or not all(0 < start < NUM_BINS for start in groups):
            raise ValueError(f"groups must rise between 1 and {NUM_BINS - 1}")
        return cls(counts, groups, int(fields["traces"]), max(1.0, float(fields["design_effect"])))


class Accumulator:
    """Adds up traces; constant memory. Not thread-safe: its owner locks."""

    def __init__(self, groups: Sequence[int]) -> None:
        self._groups = tuple(groups)
        self._counts = [0] * NUM_BINS
        self._traces = 0
        # Sums over traces of n_g^2, n_g * N and N^2 (n_g of a trace's N scores in group g): the variance needs no more.
        self._squares = [0] * (len(groups) + 1)
        self._crosses = [0] * (len(groups) + 1)
        self._size_squares = 0

    def add(self, trace: Mapping[int, int]) -> None:
        """One trace, as counts by bin. One without scores counts for nothing."""
        if not trace:
            return
        in_groups: dict[int, int] = {}
        for place, count in trace.items():
            self._counts[place] += count
            group = bisect_right(self._groups, place)
            in_groups[group] = in_groups.get(group, 0) + count
        size = sum(trace.values())
        for group, count in in_groups.items():
            self._squares[group] += count * count
            self._crosses[group] += count * size
        self._size_squares += size * size
        self._traces += 1

    def histogram(self) -> Histogram:
        """What was added so far."""
        return Histogram(tuple(self._counts), self._groups, self._traces, self._design_effect())

    def _design_effect(self) -> float:
        """At least 1: a sample is never worth more than its scores."""
        size = sum(self._counts)
        if self._traces < 2:
            return 1.0
        shares = [count / size for count in Histogram(tuple(self._counts), self._groups, 0).grouped(self._groups)]
        used = [group for group, share in enumerate(shares) if share > 0]
        if len(used) < 2:
            return 1.0
        widest = 0.0
        for group in used:
            share = shares[group]
            residual = self._squares[group] - 2 * share * self._crosses[group] + share**2 * self._size_squares
            widest = max(widest, residual / (size * share * (1 - share)))
        return round(max(1.0, widest), 4)


def reference_histogram(traces: Iterable[Mapping[int, int]]) -> Histogram:
    """The histogram of these traces, with groups of its own making."""
    found = list(traces)
    counts = [0] * NUM_BINS
    for trace in found:
        for place, count in trace.items():
            counts[place] += count
    total = Accumulator(_groups_of(counts))
    for trace in found:
        total.add(trace)
    return total.histogram()


def _groups_of(counts: Sequence[int]) -> list[int]:
    """The first bin after each of `_GROUP_ENDS`; a heavy bin may pass several. The last group is never empty."""
    size, below = sum(counts), 0
    groups: list[int] = []
    ends = list(_GROUP_ENDS)
    for place, count in enumerate(counts[:-1]):
        below += count
        if ends and size and below >= ends[0] * size and below < size:
            groups.append(place + 1)
            while ends and below >= ends[0] * size:
                ends.pop(0)
    return groups
