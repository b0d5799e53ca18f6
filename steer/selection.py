"""How often each trigger is drawn, from what followed each: Thompson sampling with a floor, worked out exactly.

    evidence  (category, trigger) -> weighed successes and failures            `steer.trigger_evidence` makes it
    posterior Beta(1 + own successes + theirs, 1 + own failures + theirs)      theirs: of the same trigger in all other
                                                                               categories, worth PRIOR_STRENGTH at most
    chance    that a draw from this posterior is the largest of all            what Thompson sampling draws with
    share     floor + (1 - n * floor) * chance                                 nothing approved is ever given up

Thompson sampling draws with exactly these chances; to compute them instead of sampling makes the probability of every
draw known, which is what an off-policy estimate needs, and a table of them the same for everybody who holds it.
Pure functions, no clock and no randomness.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

# The category of what no word list recognises.
UNKNOWN = "unknown"
# What all other categories together may say of a trigger, in observations: enough to begin with the right one in a
# category that is rare, little enough that 20 observations of its own overrule them.
PRIOR_STRENGTH = 8.0
# Cells of the integral over [0, 1]: at 400 the chances of 15 arms are right to 0.001 against 4,000 cells.
_CELLS = 400
_MIDDLES = [(cell + 0.5) / _CELLS for cell in range(_CELLS)]
_LOGS = [(math.log(x), math.log1p(-x)) for x in _MIDDLES]


class Evidence(NamedTuple):
    """What followed a trigger in a category, weighed. `judged`: the part that a reviewer or a judge has decided."""

    successes: float = 0.0
    failures: float = 0.0
    judged: float = 0.0

    @property
    def total(self) -> float:
        """Observations, weighed."""
        return self.successes + self.failures

    def plus(self, other: "Evidence") -> "Evidence":
        """Both together."""
        return Evidence(self.successes + other.successes, self.failures + other.failures, self.judged + other.judged)

    def scaled(self, by: float) -> "Evidence":
        """The same share of successes, of less (or more) weight."""
        return Evidence(self.successes * by, self.failures * by, self.judged * by)


# By category, then by trigger id.
Cells = Mapping[str, Mapping[str, Evidence]]


class Posterior(NamedTuple):
    """Of a trigger's success: Beta(a, b), both at least 1."""

    a: float
    b: float

    @property
    def mean(self) -> float:
        """Of the success."""
        return self.a / (self.a + self.b)


def posterior(cells: Cells, category: str, trigger_id: str) -> Posterior:
    """What is believed of a trigger in a category that may have no evidence of its own."""
    others = Evidence()
    for name, found in cells.items():
        if name != category:
            others = others.plus(found.get(trigger_id, Evidence()))
    theirs = others.scaled(min(1.0, PRIOR_STRENGTH / others.total)) if others.total else others
    own = cells.get(category, {}).get(trigger_id, Evidence())
    return Posterior(1.0 + own.successes + theirs.successes, 1.0 + own.failures + theirs.failures)


def chances(posteriors: Sequence[Posterior]) -> list[float]:
    """Of each to be the best. They sum to 1; more success never lowers an arm's own, nor raises another's."""
    masses = [_masses(one) for one in posteriors]
    below = [_middles_of_sums(mass) for mass in masses]
    # Products of all but one, without dividing: from the left, and from the right.
    left = [[1.0] * _CELLS]
    for row in below[:-1]:
        left.append([a * b for a, b in zip(left[-1], row, strict=True)])
    right = [[1.0] * _CELLS]
    for row in reversed(below[1:]):
        right.append([a * b for a, b in zip(right[-1], row, strict=True)])
    right.reverse()
    best = [sum(m * a * b for m, a, b in zip(*rows, strict=True)) for rows in zip(masses, left, right, strict=True)]
    total = sum(best)
    return [one / total for one in best]


def shares(cells: Cells, category: str, trigger_ids: Sequence[str], floor: float) -> dict[str, float]:
    """How often each is drawn in a category: never less than `floor`, or than 1/n where n floors are more than 1."""
    found = chances([posterior(cells, category, id) for id in trigger_ids])
    kept = min(floor, 1.0 / len(trigger_ids))
    rest = max(0.0, 1.0 - kept * len(trigger_ids))
    return {id: kept + rest * chance for id, chance in zip(trigger_ids, found, strict=True)}


def _masses(one: Posterior) -> list[float]:
    """The posterior's weight in each cell; they sum to 1."""
    logs = [(one.a - 1.0) * x + (one.b - 1.0) * y for x, y in _LOGS]
    top = max(logs)
    raw = [math.exp(value - top) for value in logs]
    total = sum(raw)
    return [value / total for value in raw]


def _middles_of_sums(mass: Sequence[float]) -> list[float]:
    """Chance to lie below each cell, half of the cell itself counted: of two in one cell either may be the larger."""
    return [total - own / 2.0 for total, own in zip(accumulate(mass), mass, strict=True)]
