"""The audit trail: who did what to what, when, and what it changed. Append-only, and without text of people.

Every write of `proxy.review` adds its entry in the same transaction, so that nothing changes without one. The table
takes no UPDATE and no DELETE (migration 0004); deleting what an entry speaks of leaves the entry.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from proxy.log.rows import moment, now_us
from proxy.review.tables import audit

# What an entry may tell of before and after: ids, states, numbers, yes or no.
Values = Mapping[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts: the id of a key, or "local"."""

    id: str
    role: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. `seq` grows with time."""

    seq: int
    at: datetime
    actor: str
    role: str
    action: str
    subject: str
    tenant: str | None
    before: dict[str, Any] | None
    after: dict[str, Any] | None


def write_entry(
    connection: Connection,
    actor: Actor,
    action: str,
    subject: str,
    *,
    tenant: str | None = None,
    before: Values | None = None,
    after: Values | None = None,
) -> None:
    """One more entry, in the transaction of what it tells of."""
    values = {
        "at_us": now_us(), "actor": actor.id, "role": actor.role, "action": action, "subject": subject,
        "tenant": tenant, "before": _json(before), "after": _json(after),
    }  # fmt: skip
    connection.execute(audit.insert(), values)


def read_entries(
    connection: Connection,
    *,
    subject: str | None = None,
    actor: str | None = None,
    tenant: str | None = None,
    before_seq: int | None = None,
    limit: int = 100,
) -> list[Entry]:
    """Newest first; `before_seq` goes on behind the last one of a page."""
    query = select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if actor is not None:
        query = query.where(audit.c.actor == actor)
    if tenant is not None:
        query = query.where(audit.c.tenant == tenant)
    if before_seq is not None:
        query = query.where(audit.c.seq < before_seq)
    return [_entry(row) for row in connection.execute(query).mappings()]


def _entry(row: Mapping[Any, Any]) -> Entry:
    values = {name: row[name] for name in ("seq", "actor", "role", "action", "subject", "tenant")}
    return Entry(at=moment(row["at_us"]), before=_read(row["before"]), after=_read(row["after"]), **values)


def _json(values: Values | None) -> str | None:
    return None if values is None else json.dumps(dict(values), sort_keys=True)


def _read(text: str | None) -> dict[str, Any] | None:
    return None if text is None else dict(json.loads(text))
