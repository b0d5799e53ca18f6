"""Reading the log: one record, pages, counts, everything. Lists and counts never touch the text table.

Reads run in worker threads, beside the writing thread: neither waits for the other (WAL, MVCC).
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import fields
from functools import partial
from typing import Any, Self, TypeVar

import anyio.to_thread
from sqlalchemy import Connection, Engine, Select, select

from proxy.log import migrate
from proxy.log.errors import UnknownIntervention
from proxy.log.failures import describe, translated
from proxy.log.query import Filters, Page, Stats, Summary
from proxy.log.rows import microseconds, moment, record_of
from proxy.log.stats import stats_of
from proxy.log.tables import intervention_texts, interventions
from proxy.log.texts import PLAIN, TextKeeper
from proxy.log.where import beyond, conditions, parse_cursor
from steer.record import InterventionRecord

T = TypeVar("T")

MAX_PAGE = 1000
# Records an export holds at a time; a record with a long conversation takes some 100 kB.
_EXPORT_CHUNK = 200
_SUMMARY = [interventions.c[item.name] for item in fields(Summary) if item.name != "created_at"]


class LogReader:
    """Read access to a log, beside any number of writers. Use as an async context manager, or `close` it."""

    def __init__(self, engine: Engine, texts: TextKeeper = PLAIN) -> None:
        self._engine = engine
        self._texts = texts

    @classmethod
    def open(cls, url: str, texts: TextKeeper = PLAIN) -> Self:
        """Open an existing log; an older schema is upgraded. Blocks. Raises LogError."""
        reading, writing = migrate.open_existing(url)
        writing.dispose()
        return cls(reading, texts)

    async def close(self) -> None:
        """Give back the connections."""
        await anyio.to_thread.run_sync(self._engine.dispose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()

    async def get(self, record_id: str) -> InterventionRecord:
        """One record, whole. Raises UnknownIntervention, LogError."""

        def read(connection: Connection) -> InterventionRecord | None:
            query = select(interventions).where(interventions.c.id == record_id)
            found = records_of(connection, query, self._texts)
            return found[0] if found else None

        record = await self.read(read)
        if record is None:
            raise UnknownIntervention(f"no intervention {record_id} in {describe(self._engine.url)}")
        return record

    async def list(self, filters: Filters = Filters(), *, limit: int = 50, cursor: str | None = None) -> Page:  # noqa: B008 - frozen
        """The newest that fit, without text. `cursor` is a page's `next_cursor`. Raises ValueError, LogError."""
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit must be between 1 and {MAX_PAGE}")
        query = select(interventions.c.created_us, *_SUMMARY).where(*conditions(interventions, filters))
        if cursor is not None:
            query = query.where(beyond(*parse_cursor(cursor), newer=False))
        query = query.order_by(interventions.c.created_us.desc(), interventions.c.id.desc()).limit(limit + 1)
        rows = await self.read(lambda connection: connection.execute(query).mappings().all())
        items = [_summary(dict(row)) for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(items, f"{last['created_us']}.{last['id']}" if last else None)

    async def stats(self, filters: Filters = Filters()) -> Stats:  # noqa: B008 - frozen
        """Counts by kind. Raises LogError."""
        return await self.read(lambda connection: stats_of(connection, filters))

    async def export(self, filters: Filters = Filters()) -> AsyncGenerator[InterventionRecord, None]:  # noqa: B008 - frozen
        """Every record that fits, oldest first, in bounded memory; close it early with `contextlib.aclosing`.

        Each chunk is a transaction of its own: an export of hours holds nothing back. Raises LogError.
        """
        position: tuple[int, str] | None = None
        while True:
            query = select(interventions).where(*conditions(interventions, filters))
            if position is not None:
                query = query.where(beyond(*position, newer=True))
            query = query.order_by(interventions.c.created_us, interventions.c.id).limit(_EXPORT_CHUNK)
            records = await self.read(partial(records_of, query=query, texts=self._texts))
            for record in records:
                yield record
            if len(records) < _EXPORT_CHUNK:
                return
            position = microseconds(records[-1].created_at), records[-1].id

    async def read(self, read: Callable[[Connection], T]) -> T:
        """Run a read in a worker thread, in a transaction of its own. Raises LogError."""

        def run() -> T:
            with translated(self._engine.url), self._engine.connect() as connection:
                return read(connection)

        return await anyio.to_thread.run_sync(run)


def records_of(connection: Connection, query: Select[Any], texts: TextKeeper) -> list[InterventionRecord]:
    """Records of the rows that a query of `interventions` finds. Raises TextLocked."""
    rows = connection.execute(query).mappings().all()
    wanted = [row["id"] for row in rows]
    bodies = connection.execute(
        intervention_texts.select().where(intervention_texts.c.intervention_id.in_(wanted))
    ).all()
    parts = {(found.intervention_id, found.part): texts.open(found.body) for found in bodies}
    return [record_of(dict(row), parts.get((row["id"], "halt")), parts.get((row["id"], "completion"))) for row in rows]


def _summary(row: dict[str, Any]) -> Summary:
    return Summary(created_at=moment(row.pop("created_us")), **row)
