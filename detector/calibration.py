"""From a classifier's raw score to a probability: one line in log-odds, chosen on validation traces.

    calibrated = sigmoid(scale * log-odds(raw) + shift),  scale > 0

Rising, so it changes no order and, with the threshold moved along, no halt; it changes what a score means.
"""

import math
from dataclasses import dataclass

_SMALLEST = 1e-7  # raw scores are fp32 after int8 layers: beyond this their log-odds are noise


@dataclass(frozen=True, slots=True)
class Calibration:
    """`scale` (an inverse temperature) and `shift`, in log-odds."""

    scale: float
    shift: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.shift)):
            raise ValueError(f"a calibration must rise: scale {self.scale}, shift {self.shift}")

    def apply(self, raw: float) -> float:
        """The probability that a raw score in [0, 1] stands for, in [0, 1]."""
        value = self.scale * log_odds(raw) + self.shift
        # Not 1 / (1 + exp(-value)) alone: exp overflows beyond 709.
        return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def log_odds(score: float) -> float:
    """Finite for every score in [0, 1]."""
    inside = min(max(score, _SMALLEST), 1 - _SMALLEST)
    return math.log(inside / (1 - inside))
