"""What a purge is told, and its memory: the database leaves out what an earlier purge covers, however it comes.

A record may be on its way while it is purged: in a spool, in the writing thread, in an old export. So a purge is
remembered before anything is deleted, and triggers (migration 0006) leave out rows that it covers. What is made after a
purge of a tenant is kept; of a purged request nothing is.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Table, or_, select, text

from proxy.log.failures import translated
from proxy.log.rows import microseconds, now_us
from proxy.log.tables import purges


@dataclass(frozen=True, slots=True)
class Purge:
    """What is to go: all that are set must hold, at least one is."""

    before: datetime | None = None
    request_id: str | None = None
    tenant: str | None = None

    def __post_init__(self) -> None:
        if self.before is None and self.request_id is None and self.tenant is None:
            raise ValueError("a purge needs a time, a request or a tenant")

    def where(self, table: Table) -> list[ColumnElement[bool]]:
        """As SQL."""
        found: list[ColumnElement[bool]] = []
        if self.before is not None:
            found.append(table.c.created_us < microseconds(self.before))
        if self.request_id is not None:
            found.append(table.c.request_id == self.request_id)
        if self.tenant is not None:
            found.append(table.c.tenant == self.tenant)
        return found

    def covers(self, whose: Mapping[str, Any]) -> bool:
        """The same of a row's values."""
        is_old = self.before is None or whose["created_us"] < microseconds(self.before)
        is_asked = self.request_id in (None, whose["request_id"])
        return is_old and is_asked and self.tenant in (None, whose["tenant"])


def remember(engine: Engine, purge: Purge) -> None:
    """From now on nothing that it covers gets in; writes under way have ended. Raises LogError."""
    before_us = None if purge.before is None else microseconds(purge.before)
    if purge.request_id is None:
        before_us = min(now_us(), before_us or now_us())  # what is made from now on is none of it
    values = {"id": uuid.uuid4().hex, "request_id": purge.request_id, "tenant": purge.tenant, "before_us": before_us}
    with translated(engine.url), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Waits for transactions that were begun before the memory is there and so can't see it.
            connection.execute(text("LOCK TABLE interventions, samples, shadow_records, requests IN SHARE MODE"))
        if purge.request_id is None:
            connection.execute(purges.delete().where(*_said_again(purge, before_us)))
        connection.execute(purges.insert(), values)


def was_purged(connection: Connection, whose: Mapping[str, Any]) -> bool:
    """Whether a purge covers a row that has these values."""
    fits = [
        or_(purges.c.request_id.is_(None), purges.c.request_id == whose["request_id"]),
        or_(purges.c.tenant.is_(None), purges.c.tenant == whose["tenant"]),
        or_(purges.c.before_us.is_(None), purges.c.before_us > whose["created_us"]),
    ]
    return connection.execute(select(purges.c.id).where(*fits).limit(1)).first() is not None


def _said_again(purge: Purge, before_us: int | None) -> list[ColumnElement[bool]]:
    """Earlier purges that this one covers whole: a purge every night must not grow the table."""
    earlier = [purges.c.request_id.is_(None), purges.c.before_us <= before_us]
    return earlier if purge.tenant is None else [*earlier, purges.c.tenant == purge.tenant]
