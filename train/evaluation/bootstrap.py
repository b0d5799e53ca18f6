"""Intervals by resampling prompts: samples of one prompt are kin, so prompts are what is drawn again.

Rules kept here: an interval depends on the counts, the seed and the measure's name alone; where all prompts agree
resampling can't vary and would claim certainty, so a score interval over prompts is given instead (and says so).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from train.evaluation.report import IntervalMethod, Mean, Rate
from train.rollout.driver import seed_of

# Prompt -> (hits, of): how many samples the measure counts, and of how many; sums and tokens for means.
Cells = Mapping[str, tuple[float, float]]
Sides = tuple[Cells, Cells]  # of a, of b
Floats = NDArray[np.float64]
# Weights of so many resamples are held at a time: 5,000 prompts make 10 MB of them.
_CHUNK = 256


class Interval(NamedTuple):
    """None where nothing can be said."""

    low: float | None
    high: float | None
    method: IntervalMethod | None


class Difference(NamedTuple):
    """b - a."""

    value: float | None
    interval: Interval


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made. `seed` and the name of a measure decide its draws."""

    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 1

    def rate(self, name: str, cells: Cells, unjudged: int = 0) -> Rate:
        """A share over all samples."""
        return self.mean_of_sets(name, {"": cells}, unjudged)

    def mean_of_sets(self, name: str, sets: Mapping[str, Cells], unjudged: int = 0) -> Rate:
        """The mean of the sets' shares: each set weighs the same. Sets without a sample are left out."""
        tables = [table for cells in sets.values() if len(table := _table(cells))]
        n, prompts = int(sum(table[:, 1].sum() for table in tables)), sum(map(len, tables))
        if not tables:
            return Rate(share=None, low=None, high=None, n=0, prompts=0, unjudged=unjudged)
        shares = [float(_shares(table.sum(axis=0)[None])[0]) for table in tables]
        share = sum(shares) / len(shares)
        drawn = np.mean([_shares(self._sums(table, f"{name}/{i}")) for i, table in enumerate(tables)], axis=0)
        low, high, method = self._interval(drawn) or Interval(*wilson(share, prompts, self.confidence), "wilson")
        return Rate(share=share, low=low, high=high, n=n, prompts=prompts, unjudged=unjudged, interval=method)

    def mean(self, name: str, cells: Cells) -> Mean:
        """A mean per token; cells are (sum, tokens)."""
        table = _table(cells)
        if not len(table):
            return Mean(value=None, low=None, high=None, tokens=0, prompts=0)
        value = float(_shares(table.sum(axis=0)[None])[0])
        low, high, _ = self._interval(_shares(self._sums(table, name))) or Interval(None, None, None)
        return Mean(value=value, low=low, high=high, tokens=int(table[:, 1].sum()), prompts=len(table))

    def ratio(self, name: str, above: Cells, below: Cells) -> Mean:
        """The mean of `above` over the mean of `below`, both of the same resampled prompts."""
        table = np.hstack(_tables(above, below))
        whole = _ratios(table.sum(axis=0)[None])[0]
        tokens, prompts = int(table[:, 1::2].sum()), len(table)
        if not np.isfinite(whole):
            return Mean(value=None, low=None, high=None, tokens=tokens, prompts=prompts)
        low, high, _ = self._interval(_ratios(self._sums(table, name))) or Interval(None, None, None)
        return Mean(value=float(whole), low=low, high=high, tokens=tokens, prompts=prompts)

    def paired(self, name: str, pairs: Mapping[str, Sides], *, is_share: bool = True) -> Difference:
        """The mean over the sets of b - a, of the same prompts: every resample draws the same of them for both."""
        tables = [np.hstack(_tables(*sides)) for sides in pairs.values()]
        gaps = [float(_gaps(table.sum(axis=0)[None])[0]) for table in tables]
        if not gaps or any(math.isnan(gap) for gap in gaps):
            return Difference(None, Interval(None, None, None))
        value = sum(gaps) / len(gaps)
        found = self._interval(
            np.mean([_gaps(self._sums(table, f"{name}/{i}")) for i, table in enumerate(tables)], axis=0)
        )
        if found is None and is_share:  # no prompt differs: as many could as a score interval around none lets
            edge = wilson(0.0, sum(map(len, tables)), self.confidence).high
            found = Interval(max(-1.0, value - edge), min(1.0, value + edge), "wilson")
        return Difference(value, found or Interval(None, None, None))

    def unpaired(self, name: str, sides: Sides, *, is_share: bool = True) -> Difference:
        """b - a over prompts that have nothing to do with each other."""
        a, b = map(_table, sides)
        p, q = (float(_shares(table.sum(axis=0)[None])[0]) for table in (a, b))
        if math.isnan(p) or math.isnan(q):
            return Difference(None, Interval(None, None, None))
        found = self._interval(_shares(self._sums(b, f"{name}/b")) - _shares(self._sums(a, f"{name}/a")))
        if found is None and is_share:
            left, right = wilson(p, len(a), self.confidence), wilson(q, len(b), self.confidence)
            down, up = math.hypot(q - right.low, left.high - p), math.hypot(right.high - q, p - left.low)
            found = Interval(q - p - down, q - p + up, "newcombe")
        return Difference(q - p, found or Interval(None, None, None))

    def _interval(self, drawn: Floats) -> Interval | None:
        """Percentiles; None where the resamples do not differ."""
        drawn = drawn[np.isfinite(drawn)]
        if not len(drawn) or np.ptp(drawn) < 1e-12:
            return None
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return Interval(float(low), float(high), "bootstrap")

    def _sums(self, table: Floats, name: str) -> Floats:
        """Column sums of every resample [resamples, columns]."""
        size = len(table)
        if not size:
            return np.zeros((self.resamples, table.shape[1]))
        rng = np.random.default_rng(seed_of(self.seed, name))
        starts = range(0, self.resamples, _CHUNK)
        odds = np.full(size, 1 / size)
        return np.vstack([rng.multinomial(size, odds, size=min(_CHUNK, self.resamples - at)) @ table for at in starts])


class Bounds(NamedTuple):
    """Of a share."""

    low: float
    high: float


def wilson(share: float, n: int, confidence: float = 0.95) -> Bounds:
    """The score interval of a share of `n` independent draws (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Bounds(max(0.0, centre - half), min(1.0, centre + half))


def _table(cells: Cells) -> Floats:
    """[prompts, 2] of the prompts that were counted at all, in the order of their names."""
    rows = [cells[key] for key in sorted(cells) if cells[key][1]]
    return np.array(rows, dtype=np.float64).reshape(len(rows), 2)


def _tables(a: Cells, b: Cells) -> list[Floats]:
    """Both over the prompts that either counts, in one order."""
    keys = sorted(key for key in {*a, *b} if a.get(key, (0, 0))[1] or b.get(key, (0, 0))[1])
    nothing = (0.0, 0.0)
    return [np.array([c.get(key, nothing) for key in keys], dtype=np.float64).reshape(len(keys), 2) for c in (a, b)]


def _shares(sums: Floats) -> Floats:
    """First column over second; NaN where that is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)


def _gaps(sums: Floats) -> Floats:
    """Share of the last two columns less that of the first two."""
    return _shares(sums[:, 2:]) - _shares(sums[:, :2])


def _ratios(sums: Floats) -> Floats:
    """Share of the first two columns over that of the last two; NaN or infinite where there is none."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return _shares(sums[:, :2]) / _shares(sums[:, 2:])
