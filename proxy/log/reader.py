"""Reading the log: one record, pages, counts, everything. Lists and counts never touch the text table.

Reads run in worker threads, beside the writing thread: neither waits for the other (WAL, MVCC).
"""

from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar

import anyio.to_thread
from sqlalchemy import ColumnElement, Connection, Engine, Select, Table, and_, func, or_, select

from proxy.log import migrate
from proxy.log.connect import open_engine, parse_url
from proxy.log.errors import LogUnavailable, UnknownIntervention
from proxy.log.failures import describe, translated
from proxy.log.query import Filters, Page, Stats, Summary
from proxy.log.rows import microseconds, moment, record_of
from proxy.log.tables import intervention_texts, interventions, requests
from steer.record import InterventionRecord

T = TypeVar("T")

MAX_PAGE = 1000
# Records an export holds at a time; a record with a long conversation takes some 100 kB.
_EXPORT_CHUNK = 200
_RANGES = {"since", "until", "min_score", "max_score"}
_SUMMARY = [interventions.c[item.name] for item in fields(Summary) if item.name != "created_at"]


class LogReader:
    """Read access to a log, beside any number of writers. Use as an async context manager, or `close` it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, url: str) -> Self:
        """Open an existing log; an older schema is upgraded. Blocks. Raises LogError."""
        parsed = parse_url(url)
        if parsed.get_backend_name() == "sqlite" and not Path(parsed.database or "").is_file():
            raise LogUnavailable(f"{describe(parsed)} does not exist: correct the path, or start the proxy first")
        upgrader = open_engine(parsed, writes=True)
        try:
            migrate.upgrade(upgrader)
        finally:
            upgrader.dispose()
        return cls(open_engine(parsed, writes=False))

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
            found = _records(connection, select(interventions).where(interventions.c.id == record_id))
            return found[0] if found else None

        record = await self._read(read)
        if record is None:
            raise UnknownIntervention(f"no intervention {record_id} in {describe(self._engine.url)}")
        return record

    async def list(self, filters: Filters = Filters(), *, limit: int = 50, cursor: str | None = None) -> Page:  # noqa: B008 - frozen
        """The newest that fit, without text. `cursor` is a page's `next_cursor`. Raises ValueError, LogError."""
        if not 1 <= limit <= MAX_PAGE:
            raise ValueError(f"limit must be between 1 and {MAX_PAGE}")
        query = select(interventions.c.created_us, *_SUMMARY).where(*_conditions(interventions, filters))
        if cursor is not None:
            query = query.where(_beyond(*_parse(cursor), newer=False))
        query = query.order_by(interventions.c.created_us.desc(), interventions.c.id.desc()).limit(limit + 1)
        rows = await self._read(lambda connection: connection.execute(query).mappings().all())
        items = [_summary(dict(row)) for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(items, f"{last['created_us']}.{last['id']}" if last else None)

    async def stats(self, filters: Filters = Filters()) -> Stats:  # noqa: B008 - frozen
        """Counts by kind. Raises LogError."""
        return await self._read(lambda connection: _stats(connection, filters))

    async def export(self, filters: Filters = Filters()) -> AsyncGenerator[InterventionRecord, None]:  # noqa: B008 - frozen
        """Every record that fits, oldest first, in bounded memory; close it early with `contextlib.aclosing`.

        Each chunk is a transaction of its own: an export of hours holds nothing back. Raises LogError.
        """
        position: tuple[int, str] | None = None
        while True:
            query = select(interventions).where(*_conditions(interventions, filters))
            if position is not None:
                query = query.where(_beyond(*position, newer=True))
            query = query.order_by(interventions.c.created_us, interventions.c.id).limit(_EXPORT_CHUNK)
            records = await self._read(partial(_records, query=query))
            for record in records:
                yield record
            if len(records) < _EXPORT_CHUNK:
                return
            position = microseconds(records[-1].created_at), records[-1].id

    async def _read(self, read: Callable[[Connection], T]) -> T:
        def run() -> T:
            with translated(self._engine.url), self._engine.connect() as connection:
                return read(connection)

        return await anyio.to_thread.run_sync(run)


def _records(connection: Connection, query: Select[Any]) -> list[InterventionRecord]:
    rows = connection.execute(query).mappings().all()
    wanted = [row["id"] for row in rows]
    texts = connection.execute(
        intervention_texts.select().where(intervention_texts.c.intervention_id.in_(wanted))
    ).all()
    parts = {(text.intervention_id, text.part): text.body for text in texts}
    return [record_of(dict(row), parts.get((row["id"], "halt")), parts.get((row["id"], "completion"))) for row in rows]


def _summary(row: dict[str, Any]) -> Summary:
    return Summary(created_at=moment(row.pop("created_us")), **row)


def _conditions(table: Table, filters: Filters) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if filters.since is not None:
        conditions.append(table.c.created_us >= microseconds(filters.since))
    if filters.until is not None:
        conditions.append(table.c.created_us < microseconds(filters.until))
    if filters.min_score is not None:
        conditions.append(table.c.score >= filters.min_score)
    if filters.max_score is not None:
        conditions.append(table.c.score <= filters.max_score)
    given = {name: value for name, value in asdict(filters).items() if value is not None}
    conditions += [table.c[name] == value for name, value in given.items() if name not in _RANGES]
    return conditions


def _beyond(created_us: int, record_id: str, *, newer: bool) -> ColumnElement[bool]:
    moments, ids = interventions.c.created_us, interventions.c.id
    if newer:
        return or_(moments > created_us, and_(moments == created_us, ids > record_id))
    return or_(moments < created_us, and_(moments == created_us, ids < record_id))


def _parse(cursor: str) -> tuple[int, str]:
    created_us, separator, record_id = cursor.partition(".")
    if not separator or not created_us.lstrip("-").isdecimal():
        raise ValueError("cursor must be a page's next_cursor")
    return int(created_us), record_id


def _stats(connection: Connection, filters: Filters) -> Stats:
    conditions = _conditions(interventions, filters)

    def by(name: str) -> dict[str, int]:
        column = interventions.c[name]
        counted = connection.execute(select(column, func.count()).where(*conditions).group_by(column)).all()
        return {value if value is not None else "none": count for value, count in counted}

    created = interventions.c.created_us
    total, first, last = connection.execute(
        select(func.count(), func.min(created), func.max(created)).where(*conditions)
    ).one()
    # Requests are filtered by what they have: tenant, model, mode and time. An outcome means another thing there.
    asked = Filters(
        tenant=filters.tenant, model=filters.model, mode=filters.mode, since=filters.since, until=filters.until
    )
    all_requests, halted = connection.execute(
        select(func.count(), func.count().filter(requests.c.interventions > 0)).where(*_conditions(requests, asked))
    ).one()
    return Stats(
        interventions=total,
        first_at=None if first is None else moment(first),
        last_at=None if last is None else moment(last),
        by_outcome=by("outcome"),
        by_mode=by("mode"),
        by_category=by("category"),
        by_trigger=by("trigger_id"),
        by_review_state=by("review_state"),
        requests=all_requests,
        halted_requests=halted,
    )
