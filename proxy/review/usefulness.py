"""How much a decision about a subject would teach, with the reasons: pure functions, no database.

A sum of parts, so that every place in the queue can be explained:
  reviewers disagree     .40  a third opinion settles it
  a second judge differs .35  one of two independent judges is wrong
  near the threshold     .35  where the detector is least certain
  a new topic            .20  unlike everything reviewed
  waiting                .10  so that nothing waits for ever
"""

from dataclasses import dataclass

_DISPUTED, _SECOND, _UNCERTAIN, _NOVEL, _WAITING = 0.40, 0.35, 0.35, 0.20, 0.10
_FULL_WAIT_DAYS = 30.0
# Parts below it are not worth a word.
_WORTH_SAYING = 0.03


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a subject."""

    score: float
    threshold: float
    is_disputed: bool
    second_disagrees: bool
    novelty: float  # 0 to 1
    age_days: float


@dataclass(frozen=True, slots=True)
class Usefulness:
    """`score` orders the queue; `reason` is for people."""

    score: float
    reason: str


def usefulness(facts: Facts) -> Usefulness:
    """The sum, and its parts in words, the largest first."""
    room = max(facts.threshold, 1 - facts.threshold)
    certainty = min(1.0, abs(facts.score - facts.threshold) / room)
    parts = [
        (_DISPUTED * facts.is_disputed, "reviewers disagree"),
        (_SECOND * facts.second_disagrees, "a second judge disagrees with the detector"),
        (
            _UNCERTAIN * (1 - certainty) ** 2,
            f"score {facts.score:.2f} is near the threshold {facts.threshold:.2f}",
        ),
        (_NOVEL * facts.novelty, f"topic unlike those reviewed ({facts.novelty:.2f})"),
        (_WAITING * min(1.0, facts.age_days / _FULL_WAIT_DAYS), f"has waited {facts.age_days:.0f} days"),
    ]
    told = [words for part, words in sorted(parts, key=lambda item: -item[0]) if part >= _WORTH_SAYING]
    return Usefulness(
        round(sum(part for part, _ in parts), 6), "; ".join(told) or "nothing speaks for it in particular"
    )
