"""What one may ask the log for, and what comes back. Plain data; `reader.py` turns it into SQL."""

from dataclasses import dataclass, field
from datetime import datetime

from steer.policy import Mode
from steer.record import Outcome, ReviewState


@dataclass(frozen=True, slots=True)
class Filters:
    """All that are set must hold; None asks for nothing. `since` is inclusive, `until` is not."""

    tenant: str | None = None
    request_id: str | None = None
    model: str | None = None
    adapter: str | None = None
    mode: Mode | None = None
    outcome: Outcome | None = None
    category: str | None = None
    trigger_id: str | None = None
    review_state: ReviewState | None = None
    since: datetime | None = None
    until: datetime | None = None
    min_score: float | None = None
    max_score: float | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """An intervention without its text, as lists show it."""

    id: str
    request_id: str
    choice: int
    attempt: int
    tenant: str
    created_at: datetime
    mode: str
    model: str
    adapter: str | None
    category: str | None
    score: float
    trigger_id: str | None
    outcome: str
    review_state: str
    halted_ms: float
    resumed_ms: float | None
    ended_ms: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """Newest first. `next_cursor` asks for the page after this one; None: there is none."""

    items: list[Summary]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts over the filtered interventions, and over all requests of the same tenant and time."""

    interventions: int = 0
    first_at: datetime | None = None
    last_at: datetime | None = None
    by_outcome: dict[str, int] = field(default_factory=dict)
    by_mode: dict[str, int] = field(default_factory=dict)
    by_category: dict[str, int] = field(default_factory=dict)
    by_trigger: dict[str, int] = field(default_factory=dict)
    by_review_state: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    halted_requests: int = 0


@dataclass(frozen=True, slots=True)
class RequestCounts:
    """One request's numbers, halted or not: what rates are computed from. No text."""

    request_id: str
    tenant: str
    model: str
    mode: Mode
    created_at: datetime
    outcome: str
    segments: int = 0
    interventions: int = 0
    completion_tokens: int = 0
    discarded_tokens: int = 0
    duration_ms: float = 0.0
