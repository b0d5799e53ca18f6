"""Deletes records on request: by age, request or tenant, with their texts, reviews, samples and request counts.

What a database deletes it may keep on disk for a while: SQLite writers overwrite it at once (`secure_delete`) and the
journal is emptied here; on PostgreSQL `VACUUM` frees it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Engine, Table, select

from proxy.log.failures import translated
from proxy.log.retention import delete_some, sample_tables
from proxy.log.rows import microseconds
from proxy.log.tables import interventions, requests


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


def ids_of(engine: Engine, purge: Purge) -> set[str]:
    """Records and samples that are to go. Raises LogError."""
    with translated(engine.url), engine.connect() as connection:
        return {
            found
            for table in (interventions, *sample_tables())
            for found in connection.execute(select(table.c.id).where(*purge.where(table))).scalars()
        }


def carry_out(engine: Engine, purge: Purge) -> Iterator[int]:
    """Delete in small transactions beside whoever writes; yields rows deleted by each. Raises LogError."""
    for table in (interventions, *sample_tables(), requests):
        while True:
            with translated(engine.url), engine.begin() as connection:
                number = delete_some(connection, table, purge.where(table))
            yield number
            if not number:
                break
    _empty_journal(engine)


def _empty_journal(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    with translated(engine.url):
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            raw.close()
