"""What reviewers' decisions come to: pure functions of the decisions, no database.

One rule: a tie-break settles a subject; else the decision that most reviewers share, once there are enough of them;
else it stays `unreviewed`, disputed where they disagree.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Decision = Literal["confirmed", "false_halt", "dismissed"]

# An intervention was right, or a false halt. A find of the second judge was a miss, or nothing.
DECISIONS: dict[str, frozenset[str]] = {
    "intervention": frozenset({"confirmed", "false_halt"}),
    "sample": frozenset({"confirmed", "dismissed"}),
}
UNREVIEWED = "unreviewed"


@dataclass(frozen=True, slots=True)
class Opinion:
    """One reviewer's decision, as it stands. `decided_us` orders tie-breaks: the last one counts."""

    decision: str
    is_final: bool = False
    decided_us: int = 0


@dataclass(frozen=True, slots=True)
class Resolution:
    """The subject's state, and whether reviewers disagree about it with nobody having settled it."""

    state: str
    is_disputed: bool


def resolve(opinions: Sequence[Opinion], needed: int) -> Resolution:
    """`needed`: reviewers before a state is set without a tie-break."""
    final = [opinion for opinion in opinions if opinion.is_final]
    if final:
        return Resolution(max(final, key=lambda opinion: opinion.decided_us).decision, is_disputed=False)
    counted = Counter(opinion.decision for opinion in opinions).most_common()
    if not counted:
        return Resolution(UNREVIEWED, is_disputed=False)
    has_majority = len(counted) == 1 or counted[0][1] > counted[1][1]
    if has_majority and len(opinions) >= needed:
        return Resolution(counted[0][0], is_disputed=False)
    return Resolution(UNREVIEWED, is_disputed=len(counted) > 1)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Two reviewers over the subjects that both have decided. `kappa` None: both always said one and the same."""

    first: str
    second: str
    subjects: int
    agreed: int
    kappa: float | None

    @property
    def share(self) -> float:
        """Subjects on which they agree."""
        return self.agreed / self.subjects


def agreement(first: str, second: str, counts: dict[tuple[str, str], int]) -> Agreement:
    """From how often `first` and `second` said what of one subject. Cohen's kappa: agreement beyond chance."""
    total = sum(counts.values())
    agreed = sum(count for (a, b), count in counts.items() if a == b)
    left, right = Counter[str](), Counter[str]()
    for (a, b), count in counts.items():
        left[a] += count
        right[b] += count
    by_chance = sum(left[name] * right[name] for name in left) / total**2
    kappa = None if by_chance == 1 else (agreed / total - by_chance) / (1 - by_chance)
    return Agreement(first, second, total, agreed, kappa)
