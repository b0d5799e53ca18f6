"""Records for tests of the log, of inert text."""

import itertools
from datetime import UTC, datetime
from typing import Any

from steer.record import Completion, InterventionRecord, Outcome, TextSpan, Timings

_NUMBERS = itertools.count()


def record(**changes: Any) -> InterventionRecord:
    """An intervention as the proxy inserts it, with an id of its own."""
    number = next(_NUMBERS)
    fields: dict[str, Any] = {
        "id": f"i-{number:08d}",
        "request_id": f"r-{number:08d}",
        "attempt": 0,
        "created_at": datetime.now(UTC),
        "mode": "hold",
        "model": "lrm",
        "policy_hash": "policy",
        "detector_hash": "detector",
        "trigger_id": "reframe-1",
        "trigger": TextSpan(text=" Wait.", token_ids=[7, 8]),
        "channel": "reasoning",
        "score": 0.9,
        "category": "topic-a",
        "messages": [{"role": "user", "content": "placeholder request"}],
        "prompt_token_ids": [1, 2, 3],
        "kept": TextSpan(text="Okay.", token_ids=[4]),
        "rejected": TextSpan(text=" The cue.", token_ids=[5, 6]),
        "timings": Timings(halted_ms=12.5, verdict_ms=3.25),
    }
    return InterventionRecord(**(fields | changes))


def completion(outcome: Outcome = "completed", **changes: Any) -> Completion:
    """The end of a resumed leg."""
    fields: dict[str, Any] = {
        "outcome": outcome,
        "continuation": TextSpan(text=" I reconsider.", token_ids=[9]),
        "answer": "No.",
        "finish_reason": "stop",
        "discarded_tokens": 2,
        "timings": Timings(halted_ms=12.5, verdict_ms=3.25, resumed_ms=20.0, ended_ms=90.0),
    }
    return Completion(**(fields | changes))
