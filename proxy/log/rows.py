"""A record as rows and back: which field is a column, which goes into the text body, and nothing else.

The body holds every field that has no column, so a field added to the record is kept without a change here.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from steer.record import Completion, InterventionRecord

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Fields of the record that are columns of the same name and type.
_PLAIN = (
    "id", "schema_version", "request_id", "choice", "attempt", "tenant", "mode", "model", "adapter", "policy_hash",
    "detector_hash", "trigger_id", "channel", "score", "category", "outcome", "review_state",
    "trigger_snapshot", "trigger_probability",
)  # fmt: skip
_NOT_IN_BODY = {*_PLAIN, "created_at", "completion"}


def microseconds(moment: datetime) -> int:
    """Since the epoch; a naive datetime is read as UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def moment(value_us: int) -> datetime:
    """The inverse of `microseconds`, in UTC."""
    return _EPOCH + timedelta(microseconds=value_us)


def now_us() -> int:
    """This machine's clock."""
    return microseconds(datetime.now(UTC))


def halt_columns(record: InterventionRecord) -> dict[str, Any]:
    """The row of `interventions` at the halt, without its owner."""
    columns = {name: getattr(record, name) for name in _PLAIN}
    columns["created_us"] = microseconds(record.created_at)
    columns["halted_ms"] = record.timings.halted_ms
    columns["verdict_ms"] = record.timings.verdict_ms
    return columns


def completion_columns(completion: Completion) -> dict[str, Any]:
    """What the completion sets in the row."""
    return {
        "outcome": completion.outcome,
        "finish_reason": completion.finish_reason,
        "discarded_tokens": completion.discarded_tokens,
        "resumed_ms": completion.timings.resumed_ms,
        "ended_ms": completion.timings.ended_ms,
    }


def halt_body(record: InterventionRecord) -> str:
    """The text part "halt"."""
    return _json(record.model_dump(exclude=_NOT_IN_BODY))


def completion_body(completion: Completion) -> str:
    """The text part "completion"."""
    return _json(completion.model_dump())


def record_of(row: Mapping[str, Any], halt: str | None, completion: str | None) -> InterventionRecord:
    """The record back from its row and text parts. A part that was deleted leaves its fields empty."""
    fields: dict[str, Any] = {name: row[name] for name in _PLAIN}
    fields["created_at"] = moment(row["created_us"])
    if halt is not None:
        fields |= json.loads(halt)
    else:
        timings = {"halted_ms": row["halted_ms"], "verdict_ms": row["verdict_ms"]}
        fields |= {"messages": [], "kept": {}, "rejected": {}, "timings": timings}
    if completion is not None:
        fields["completion"] = json.loads(completion)
    return InterventionRecord.model_validate(fields)


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:  # a client may send a lone surrogate as an escape; only an escape can hold it
        return json.dumps(value, separators=(",", ":"))
    return text
