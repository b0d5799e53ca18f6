"""Means over seeds with 95 % intervals, and paired differences. Pure functions of flags."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import NamedTuple

from train.organism.evaluate import rate

# Student's t, two-sided 95 %, by degrees of freedom; beyond these the normal value is near enough.
_T = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
_Z = 1.959964


class Interval(NamedTuple):
    """A mean (a share of 1) and its 95 % interval; `n` flags of `seeds` seeds."""

    mean: float
    low: float
    high: float
    n: int
    seeds: int


def share(by_seed: Sequence[Sequence[bool]]) -> Interval:
    """Over seeds: Student's t on the seeds' shares, or Wilson's interval for one seed."""
    shares = [mean(flags) for flags in by_seed]
    n = sum(map(len, by_seed))
    if len(shares) == 1:
        found = rate(by_seed[0])
        return Interval(shares[0], float(found["low"]), float(found["high"]), n, 1)
    half = _T.get(len(shares) - 1, _Z) * stdev(shares) / math.sqrt(len(shares))
    middle = mean(shares)
    return Interval(middle, max(0.0, middle - half), min(1.0, middle + half), n, len(shares))


def over_seeds(values: Sequence[float]) -> Interval:
    """Student's t on one figure of each seed; of a single seed no interval is known, and none is told."""
    middle = mean(values)
    half = _T.get(len(values) - 1, _Z) * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return Interval(middle, middle - half, middle + half, len(values), len(values))


def pooled(by_seed: Sequence[Sequence[bool]]) -> Interval:
    """Wilson's interval on the flags of all seeds together: the sampling noise alone, not the training's."""
    flags = [flag for values in by_seed for flag in values]
    found = rate(flags)
    return Interval(mean(flags), float(found["low"]), float(found["high"]), len(flags), len(by_seed))


def difference(ours: Sequence[Sequence[bool]], theirs: Sequence[Sequence[bool]]) -> Interval:
    """Ours minus theirs, prompt by prompt, over all seeds."""
    changes = [int(a) - int(b) for x, y in zip(ours, theirs, strict=True) for a, b in zip(x, y, strict=True)]
    half = _Z * stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else math.inf
    return Interval(mean(changes), mean(changes) - half, mean(changes) + half, len(changes), len(ours))
