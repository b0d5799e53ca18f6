"""What is written to the log, as data: applied to the database now, or kept in the spool and applied later.

An entry holds rows as they will be, text redacted and encrypted already. Applying one a second time does nothing.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, select

from proxy.log import rows
from proxy.log.errors import UnknownIntervention
from proxy.log.purges import was_purged
from proxy.log.query import RequestCounts
from proxy.log.sql import insert_once
from proxy.log.tables import intervention_texts, interventions, requests
from proxy.log.texts import TextKeeper
from steer.record import Completion, InterventionRecord

_INSERT_TEXT = intervention_texts.insert()
# An "interrupted" that others guessed is overwritten: completed_us tells a guess from a completion.
_COMPLETE = (
    interventions.update()
    .where(interventions.c.id == bindparam("record_id"), interventions.c.completed_us.is_(None))
    .values(text_bytes=interventions.c.text_bytes + bindparam("more_bytes"))
)


@dataclass(frozen=True, slots=True)
class Insert:
    """First phase; `texts` are bodies by part."""

    columns: Mapping[str, Any]
    texts: Mapping[str, str]
    importer: Mapping[str, str] | None = None
    """Id and role of who brings a decision of other reviewers in; for the audit trail. None: there is none."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Second phase."""

    record_id: str
    columns: Mapping[str, Any]
    body: str
    text_bytes: int
    whose: Mapping[str, Any] | None = None
    """Request, tenant and time of the record, so that a purge knows it. None: not known here."""


@dataclass(frozen=True, slots=True)
class Count:
    """A request's counts."""

    columns: Mapping[str, Any]


Entry = Insert | Complete | Count
_KINDS: dict[str, type[Insert | Complete | Count]] = {"insert": Insert, "complete": Complete, "count": Count}


def insert_of(
    record: InterventionRecord, owner_id: str | None, texts: TextKeeper, importer: Mapping[str, str] | None = None
) -> Insert:
    """The first phase of a record; both, where it is complete already."""
    halt = texts.halt(record)
    columns = rows.halt_columns(record) | {"stored_text": halt.stored_text}
    bodies = {"halt": halt.body}
    if record.completion is not None:
        columns |= rows.completion_columns(record.completion) | {"completed_us": rows.now_us()}
        bodies["completion"] = texts.completion(record.completion).body
    elif record.outcome == "open":
        columns["owner_id"] = owner_id
    return Insert(columns | {"text_bytes": sum(map(_size, bodies.values()))}, bodies, importer)


def whose_of(record: InterventionRecord) -> dict[str, Any]:
    """What a purge chooses by."""
    created_us = rows.microseconds(record.created_at)
    return {"request_id": record.request_id, "tenant": record.tenant, "created_us": created_us}


def complete_of(
    record_id: str, completion: Completion, texts: TextKeeper, whose: Mapping[str, Any] | None = None
) -> Complete:
    """The second phase of a record."""
    kept = texts.completion(completion)
    columns = rows.completion_columns(completion) | {"completed_us": rows.now_us(), "owner_id": None}
    if kept.stored_text == "redacted" or (kept.stored_text == "none" and texts.store != "none"):
        columns["stored_text"] = "redacted"
    return Complete(record_id, columns, kept.body, _size(kept.body), whose)


def count_of(counts: RequestCounts) -> Count:
    """A request's counts."""
    columns = asdict(counts)
    return Count(columns | {"created_us": rows.microseconds(columns.pop("created_at"))})


def apply(connection: Connection, entry: Entry) -> None:
    """Write it; what was purged is left out. Raises UnknownIntervention for a completion of what was never inserted."""
    match entry:
        case Insert(columns, texts, importer):
            if insert_once(connection, interventions, columns):
                for part, body in texts.items():
                    _write_text(connection, str(columns["id"]), part, body)
                if importer is not None:
                    _note_import(connection, columns, importer)
        case Complete():
            _complete(connection, entry)
        case Count(columns):
            insert_once(connection, requests, columns)


def dump(entry: Entry) -> bytes:
    """One line, without its end."""
    kind = next(name for name, of in _KINDS.items() if isinstance(entry, of))
    return json.dumps({kind: asdict(entry)}, separators=(",", ":")).encode()


def load(line: bytes) -> Entry:
    """The inverse of `dump`. Raises ValueError, KeyError, TypeError for what it did not write."""
    [(kind, fields)] = json.loads(line).items()
    return _KINDS[kind](**fields)


def _complete(connection: Connection, entry: Complete) -> None:
    values = {**entry.columns, "record_id": entry.record_id, "more_bytes": entry.text_bytes}
    if connection.execute(_COMPLETE, values).rowcount:
        _write_text(connection, entry.record_id, "completion", entry.body)
        return
    known = connection.execute(select(interventions.c.id).where(interventions.c.id == entry.record_id)).first()
    if known is None and not (entry.whose and was_purged(connection, entry.whose)):
        raise UnknownIntervention(f"no intervention {entry.record_id} in the log: insert it before completing it")


def _note_import(connection: Connection, columns: Mapping[str, Any], importer: Mapping[str, str]) -> None:
    from proxy.review.audit import Actor, write_entry  # noqa: PLC0415 - its tables are built on ours

    after = {"state": str(columns["review_state"])}
    write_entry(connection, Actor(**importer), "log.import", columns["id"], tenant=columns["tenant"], after=after)


def _write_text(connection: Connection, record_id: str, part: str, body: str) -> None:
    connection.execute(_INSERT_TEXT, {"intervention_id": record_id, "part": part, "body": body})


def _size(body: str) -> int:
    return len(body.encode())
