"""Two versions on the same requests: the difference of their rates, with a confidence interval. Pure.

The interval is Newcombe's for paired proportions (1998, method 10): made of the Wilson intervals of both rates, which
stay wide where little was seen (no difference in twenty pairs is no proof of none).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple


class Difference(NamedTuple):
    """Of two rates: first less second."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pairs:
    """Requests that both have answered: of how many both, only the first, only the second, neither was a hit."""

    both: int = 0
    first_only: int = 0
    second_only: int = 0
    neither: int = 0

    @property
    def n(self) -> int:
        """All of them."""
        return self.both + self.first_only + self.second_only + self.neither

    def less(self, other: "Pairs") -> "Pairs":
        """Without those."""
        return Pairs(
            self.both - other.both,
            self.first_only - other.first_only,
            self.second_only - other.second_only,
            self.neither - other.neither,
        )

    def difference(self, confidence: float = 0.95) -> Difference | None:
        """First rate less second; None where there are no pairs."""
        if not self.n:
            return None
        n, z = self.n, NormalDist().inv_cdf((1 + confidence) / 2)
        first, second = (self.both + self.first_only) / n, (self.both + self.second_only) / n
        (low1, high1), (low2, high2) = _wilson(first, n, z), _wilson(second, n, z)
        phi = self._correlation()
        below = _hypot(first - low1, high2 - second, phi)
        above = _hypot(second - low2, high1 - first, phi)
        value = first - second
        return Difference(value, max(-1.0, value - below), min(1.0, value + above))

    def _correlation(self) -> float:
        """Phi with a continuity correction where it is positive."""
        product = (self.both + self.first_only) * (self.second_only + self.neither)
        product *= (self.both + self.second_only) * (self.first_only + self.neither)
        if not product:
            return 0.0
        lean = float(self.both * self.neither - self.first_only * self.second_only)
        if lean > 0:
            lean = max(0.0, lean - self.n / 2)
        return lean / math.sqrt(product)


def _wilson(share: float, n: int, z: float) -> tuple[float, float]:
    centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (centre - half) / scale, (centre + half) / scale


def _hypot(a: float, b: float, phi: float) -> float:
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
