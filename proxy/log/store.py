"""The intervention log: the one place of the proxy where user text is kept.

Two phases: `insert` at the halt, `complete` at the end; each returns once it is on disk, and each may be repeated. What
a process leaves open when it dies becomes "interrupted" (see `owners.py`).
"""

import logging
from dataclasses import asdict
from typing import Any, Self

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine, bindparam, select

from proxy.log import migrate, owners, rows
from proxy.log.connect import open_engine, parse_url, prepare_file
from proxy.log.errors import LogError, UnknownIntervention
from proxy.log.failures import translated
from proxy.log.owners import HEARTBEAT_S, LEASE_S, Owner
from proxy.log.query import RequestCounts
from proxy.log.reader import LogReader
from proxy.log.sql import insert_once
from proxy.log.tables import intervention_texts, interventions, requests
from proxy.log.writer import Writer
from steer.record import Completion, InterventionRecord

logger = logging.getLogger("steer.log")

_INSERT_TEXT = intervention_texts.insert()
# An "interrupted" that others guessed is overwritten: completed_us tells a guess from a completion.
_COMPLETE = interventions.update().where(
    interventions.c.id == bindparam("record_id"), interventions.c.completed_us.is_(None)
)

# Writes waiting in memory: some 100 kB each at most, and seconds of work for any database that is alive.
MAX_PENDING = 4096
# Shorter than a session waits for its log, so that the caller gets the log's own words.
WRITE_TIMEOUT_S = 9.0


class InterventionLog(LogReader):
    """Read and write access. One a process: open it after forking, close it before the process ends."""

    def __init__(self, reading: Engine, writing: Engine, owner: Owner, *, max_pending: int, lease_s: float) -> None:
        super().__init__(reading)
        self._writing, self._owner, self._lease_s = writing, owner, lease_s
        self._inserted: set[str] = set()  # on disk and open: a repeated insert has nothing to do
        self._writer = Writer(
            writing,
            beat=self._beat,
            beat_s=min(HEARTBEAT_S, lease_s / 3),
            max_pending=max_pending,
            timeout_s=WRITE_TIMEOUT_S,
        )

    @classmethod
    def open(cls, url: str, *, max_pending: int = MAX_PENDING, lease_s: float = LEASE_S) -> Self:
        """Open or create a log, bring its schema up to date, mark what dead processes left open.

        `sqlite:///path` or `postgresql+psycopg://…`. Blocks for as long as a migration takes. Raises LogError.
        """
        parsed = parse_url(url)
        prepare_file(parsed)
        writing = open_engine(parsed, writes=True)
        owner = Owner.here()
        try:
            migrate.upgrade(writing)
            with translated(parsed), writing.begin() as connection:
                owners.register(connection, owner)
                interrupted = owners.sweep(connection, owner, lease_s)
        except LogError:
            writing.dispose()
            raise
        if interrupted:
            logger.warning("%d interventions were left open by a process that died: now 'interrupted'", interrupted)
        return cls(open_engine(parsed, writes=False), writing, owner, max_pending=max_pending, lease_s=lease_s)

    @property
    def last_error(self) -> LogError | None:
        """Why the database failed the latest write or heartbeat; None where all is well."""
        return self._writer.last_error

    async def insert(self, record: InterventionRecord) -> None:
        """First phase. A record of the same id is left as it is. Raises LogError."""
        if record.id in self._inserted:
            return
        await self._writer.submit(lambda connection: _insert(connection, record, self._owner))
        if record.outcome == "open":
            self._inserted.add(record.id)

    async def complete(self, record_id: str, completion: Completion) -> None:
        """Second phase. A second completion does nothing. Raises UnknownIntervention, LogError."""
        if completion.outcome == "open":
            raise ValueError("a completion has an outcome other than 'open'")
        await self._writer.submit(lambda connection: _complete(connection, record_id, completion))
        self._inserted.discard(record_id)

    async def count(self, counts: RequestCounts) -> None:
        """Keep a request's counts; a second time does nothing. Raises LogError."""
        await self._writer.submit(lambda connection: _count(connection, counts))

    async def close(self) -> None:
        """Write all that waits, mark what is still open as interrupted, give everything back. Repeatable."""
        await anyio.to_thread.run_sync(self._writer.close, self._retire)
        self._writing.dispose()
        await super().close()

    def _beat(self, connection: Connection) -> None:
        owners.register(connection, self._owner)
        if interrupted := owners.sweep(connection, self._owner, self._lease_s):
            logger.warning("%d interventions were left open by a process that died: now 'interrupted'", interrupted)

    def _retire(self, connection: Connection) -> None:
        if interrupted := owners.retire(connection, self._owner):
            logger.warning("%d interventions were open when the log closed: now 'interrupted'", interrupted)


def _insert(connection: Connection, record: InterventionRecord, owner: Owner) -> None:
    values: dict[str, Any] = rows.halt_columns(record)
    if record.completion is not None:
        values |= rows.completion_columns(record.completion) | {"completed_us": rows.now_us()}
    elif record.outcome == "open":
        values["owner_id"] = owner.owner_id
    if not insert_once(connection, interventions, values):
        return
    _write_text(connection, record.id, "halt", rows.halt_body(record))
    if record.completion is not None:
        _write_text(connection, record.id, "completion", rows.completion_body(record.completion))


def _complete(connection: Connection, record_id: str, completion: Completion) -> None:
    values = rows.completion_columns(completion) | {"completed_us": rows.now_us(), "owner_id": None}
    if connection.execute(_COMPLETE, values | {"record_id": record_id}).rowcount:
        _write_text(connection, record_id, "completion", rows.completion_body(completion))
        return
    known = connection.execute(select(interventions.c.id).where(interventions.c.id == record_id)).first()
    if known is None:
        raise UnknownIntervention(f"no intervention {record_id} in the log: insert it before completing it")


def _count(connection: Connection, counts: RequestCounts) -> None:
    values = asdict(counts)
    values["created_us"] = rows.microseconds(values.pop("created_at"))
    insert_once(connection, requests, values)


def _write_text(connection: Connection, record_id: str, part: str, body: str) -> None:
    connection.execute(_INSERT_TEXT, {"intervention_id": record_id, "part": part, "body": body})
