"""Shares, correlations and differences with 95 % intervals, as plain numbers that JSON takes (None for no data)."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.detector.metrics import share as wilson

# Percentile intervals of 95 % are steady to about a hundredth with so many.
RESAMPLES = 2000


def share(flags: Iterable[bool]) -> dict[str, float | int | None]:
    """{"n", "count", "share", "low", "high"}: a share with its Wilson interval."""
    values = list(flags)
    if not values:
        return {"n": 0, "count": 0, "share": None, "low": None, "high": None}
    found = wilson(sum(values), len(values))
    return {
        "n": found.of,
        "count": found.count,
        "share": round(found.share, 4),
        "low": round(found.low, 4),
        "high": round(found.high, 4),
    }


def pearson(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Product-moment correlation; None for fewer than two points, or where one side never varies."""
    if len(x) < 2 or len(set(x)) < 2 or len(set(y)) < 2:
        return None
    return float(np.corrcoef(x, y)[0, 1])


def correlation(x: Sequence[float], y: Sequence[float], seed: int) -> dict[str, float | int | None]:
    """{"n", "pearson", "low", "high"}: with a bootstrap interval over the pairs."""
    found = pearson(x, y)
    if found is None:
        return {"n": len(x), "pearson": None, "low": None, "high": None}
    pairs = np.array([x, y], dtype=float)
    low, high = _interval(len(x), seed, lambda index: pearson(pairs[0, index].tolist(), pairs[1, index].tolist()))
    return {"n": len(x), "pearson": round(found, 4), "low": low, "high": high}


def mean_with_interval(values: Sequence[float], seed: int) -> dict[str, float | int | None]:
    """{"n", "mean", "low", "high"}: with a bootstrap interval."""
    if not values:
        return {"n": 0, "mean": None, "low": None, "high": None}
    given = np.array(values, dtype=float)
    low, high = _interval(len(given), seed, lambda index: float(given[index].mean()))
    return {"n": len(given), "mean": round(float(given.mean()), 4), "low": low, "high": high}


def _interval(
    n: int, seed: int, statistic: Callable[[NDArray[np.int64]], float | None]
) -> tuple[float | None, float | None]:
    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, n, n)) for _ in range(RESAMPLES)]
    values: list[Any] = [value for value in drawn if value is not None]
    if not values:
        return None, None
    low, high = np.quantile(values, [0.025, 0.975])
    return round(float(low), 4), round(float(high), 4)
