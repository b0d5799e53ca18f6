"""What a version made of a request, and of a copy of it: numbers, and the halts of the copy."""

from dataclasses import dataclass
from typing import Any, Literal

from proxy.session import Session
from steer.record import Completion, InterventionRecord

Outcome = Literal["clear", "halted", "failed"]


class Unusable(Exception):
    """A copy that says nothing of the version. `reason` is a label of metrics."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Answer:
    """One side's."""

    outcome: Outcome
    interventions: int
    tokens: int

    @classmethod
    def of(cls, session: Session) -> "Answer | None":
        """None where it was left before its end: what would have come is not known."""
        if session.error is None and session.finish_reason is None:
            return None
        failed = session.error is not None or session.finish_reason == "error"
        outcome: Outcome = "failed" if failed else "halted" if session.was_halted else "clear"
        return cls(outcome, session.transcript.num_records, session.generated_tokens)


@dataclass(frozen=True, slots=True)
class CopyMade:
    """A copy that was answered. `row`: columns of `shadow_records` that the request and the policy give."""

    answer: Answer
    row: dict[str, Any]
    halts: list[tuple[InterventionRecord, Completion | None]]
