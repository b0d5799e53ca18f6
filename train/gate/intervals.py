"""Intervals of shares, of their difference, and of a mean. Pure functions of counts, at any confidence.

Shares: Wilson's score interval. Difference of two independent shares: Newcombe's hybrid of two Wilson intervals (1998,
method 10), which behaves at 0 and 1 where the textbook interval has no width. Two models that answer the same prompts
are positively correlated, so treating them as independent makes the interval wider, never narrower than it should be.
"""

import math
from statistics import NormalDist
from typing import NamedTuple


class Interval(NamedTuple):
    """`low` to `high`, both included."""

    low: float
    high: float


def quantile(confidence: float) -> float:
    """The normal quantile of a two-sided interval."""
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(hits: int, n: int, confidence: float) -> Interval:
    """Of a share; everything is possible where nothing was counted."""
    if n == 0:
        return Interval(0.0, 1.0)
    z, rate = quantile(confidence), hits / n
    scale = 1 + z * z / n
    centre = rate + z * z / (2 * n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 up to rounding; a bound must not exclude what was seen.
    return Interval(max(0.0, min(rate, (centre - half) / scale)), min(1.0, max(rate, (centre + half) / scale)))


def difference(hits: int, n: int, other_hits: int, other_n: int, confidence: float) -> Interval:
    """Of the first share minus the second."""
    if n == 0 or other_n == 0:
        return Interval(-1.0, 1.0)
    first, second = hits / n, other_hits / other_n
    own, other = wilson(hits, n, confidence), wilson(other_hits, other_n, confidence)
    gap = first - second
    low = gap - math.hypot(first - own.low, other.high - second)
    high = gap + math.hypot(own.high - first, second - other.low)
    return Interval(max(-1.0, low), min(1.0, high))


def mean_interval(mean: float, sd: float, n: int, confidence: float) -> Interval:
    """Of a mean of `n` independent values, by the normal law: ask for some tens of values at least."""
    if n < 2:
        return Interval(-math.inf, math.inf)
    half = quantile(confidence) * sd / math.sqrt(n)
    return Interval(mean - half, mean + half)
