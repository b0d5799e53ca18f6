"""A record is complete when inserted, completed once, and never changed in place."""

from datetime import UTC, datetime
from typing import Any

import pytest
from pydantic import ValidationError

from steer.record import SCHEMA_VERSION, Completion, InterventionRecord, TextSpan, Timings


def record(**changes: Any) -> InterventionRecord:
    fields: dict[str, Any] = {
        "id": "r-1",
        "request_id": "q-1",
        "attempt": 0,
        "created_at": datetime(2026, 1, 2, tzinfo=UTC),
        "mode": "hold",
        "model": "m",
        "policy_hash": "p",
        "detector_hash": "d",
        "trigger_id": "risk-1",
        "channel": "reasoning",
        "score": 0.9,
        "messages": [{"role": "user", "content": "placeholder"}],
        "kept": TextSpan(text="Okay.", token_ids=[1, 2]),
        "rejected": TextSpan(text=" Cue."),
        "timings": Timings(halted_ms=12.0),
    }
    return InterventionRecord(**(fields | changes))


def test_a_record_opens_unreviewed_and_survives_its_json() -> None:
    opened = record()
    assert (opened.outcome, opened.review_state, opened.schema_version) == ("open", "unreviewed", SCHEMA_VERSION)
    assert InterventionRecord.model_validate_json(opened.model_dump_json()) == opened


def test_completion_gives_a_new_record_with_its_outcome_and_leaves_the_old_one_open() -> None:
    opened = record()
    completion = Completion(
        outcome="completed", continuation=TextSpan(text=" Better."), timings=Timings(halted_ms=12.0, ended_ms=80.0)
    )
    closed = opened.completed(completion)
    assert (closed.outcome, closed.completion) == ("completed", completion)
    assert (opened.outcome, opened.completion) == ("open", None)
    assert closed.model_copy(update={"outcome": "open", "completion": None}) == opened


@pytest.mark.parametrize(
    "changes", [{"score": 1.5}, {"score": float("nan")}, {"attempt": -1}, {"choice": -1}, {"surprise": 1}]
)
def test_a_record_that_can_not_be_true_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        record(**changes)
