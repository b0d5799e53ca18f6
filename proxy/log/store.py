"""The intervention log: the one place of the proxy where user text is kept.

Two phases: `insert` at the halt, `complete` at the end; each returns once it is on disk, and each may be repeated. What
a process leaves open when it dies becomes "interrupted" (see `owners.py`).
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine

from proxy.log import entries, folding, migrate, owners
from proxy.log.connect import open_engine, parse_url, prepare_file
from proxy.log.errors import LogError
from proxy.log.failures import translated
from proxy.log.owners import HEARTBEAT_S, LEASE_S, Owner
from proxy.log.query import RequestCounts
from proxy.log.reader import LogReader
from proxy.log.replay import adopt, attempts, log_id
from proxy.log.retention import Retention
from proxy.log.spool import Spool, SpoolPlace
from proxy.log.texts import PLAIN, TextKeeper
from proxy.log.writer import Writer
from steer.record import Completion, InterventionRecord

logger = logging.getLogger("steer.log")

# Writes waiting in memory: some 100 kB each at most, and seconds of work for any database that is alive.
MAX_PENDING = 4096
# Shorter than a session waits for its log, so that the caller gets the log's own words.
WRITE_TIMEOUT_S = 9.0
# With a spool to go to there is no point in waiting for long: a commit takes milliseconds, a hiccup some hundred.
DIVERT_AFTER_S = 2.0


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How a process writes. None: no spool, nothing is deleted."""

    texts: TextKeeper = PLAIN
    spool: SpoolPlace | None = None
    retention: Retention | None = None
    max_pending: int = MAX_PENDING
    lease_s: float = LEASE_S


class InterventionLog(LogReader):
    """Read and write access. One a process: open it after forking, close it before the process ends."""

    def __init__(self, reading: Engine, writing: Engine, owner: Owner, options: LogOptions) -> None:
        super().__init__(reading, options.texts)
        self._writing, self._owner, self._options = writing, owner, options
        # On disk and open, and whose: a repeated insert has nothing to do.
        self._inserted: dict[str, dict[str, Any]] = {}
        self._spool = None if options.spool is None else Spool.make(options.spool)
        self._writer = Writer(
            writing,
            beat=self._beat,
            beat_s=min(HEARTBEAT_S, options.lease_s / 3),
            max_pending=options.max_pending,
            timeout_s=WRITE_TIMEOUT_S if options.spool is None else DIVERT_AFTER_S,
            chore=self._chore,
            spool=None if self._spool is None or options.spool is None else (self._spool, options.spool),
        )

    @classmethod
    def open(  # type: ignore[override]  # a log is opened with more than a reader is
        cls, url: str, options: LogOptions | None = None, *, max_pending: int = MAX_PENDING, lease_s: float = LEASE_S
    ) -> Self:
        """Open or create a log, bring its schema up to date, replay what dead processes left in the spool, and mark
        what they left open.

        `sqlite:///path` or `postgresql+psycopg://…`. Blocks for as long as a migration or a replay takes. Raises
        LogError.
        """
        options = options or LogOptions(max_pending=max_pending, lease_s=lease_s)
        parsed = parse_url(url)
        prepare_file(parsed)
        writing = open_engine(parsed, writes=True)
        owner = Owner.here()
        try:
            migrate.upgrade(writing)
            if options.spool is not None:
                with translated(parsed), writing.begin() as connection:
                    place = replace(options.spool, log_id=log_id(connection))
                options = replace(options, spool=place)
                if error := adopt(place, attempts(writing)):
                    raise error
                if others := Spool.of_others(place):
                    logger.warning("records of another log wait in %s, and are left there", ", ".join(others))
            with translated(parsed), writing.begin() as connection:
                owners.register(connection, owner)
                interrupted = owners.sweep(connection, owner, options.lease_s)
            if interrupted:
                logger.warning("%d interventions were left open by a process that died: now 'interrupted'", interrupted)
            return cls(open_engine(parsed, writes=False), writing, owner, options)
        except LogError:
            writing.dispose()
            raise

    @property
    def last_error(self) -> LogError | None:
        """Why the database failed the latest write or heartbeat; None where all is well."""
        return self._writer.last_error

    @property
    def spooled_bytes(self) -> int:
        """What waits in this process's spool for the database to be back."""
        return 0 if self._spool is None else self._spool.num_bytes

    @property
    def texts(self) -> TextKeeper:
        """The rules for text, for what else is kept in this database."""
        return self._options.texts

    async def insert(self, record: InterventionRecord, *, importer: Mapping[str, str] | None = None) -> None:
        """First phase. A record of the same id is left as it is. `importer`: see `entries.Insert`. Raises LogError."""
        if record.id in self._inserted:
            return
        owner_id, texts = self._owner.owner_id, self._options.texts
        await self._writer.submit(lambda: entries.insert_of(record, owner_id, texts, importer))
        if record.outcome == "open":
            self._inserted[record.id] = entries.whose_of(record)

    async def complete(self, record_id: str, completion: Completion) -> None:
        """Second phase. A second completion does nothing. Raises UnknownIntervention, LogError."""
        if completion.outcome == "open":
            raise ValueError("a completion has an outcome other than 'open'")
        whose = self._inserted.get(record_id)
        await self._writer.submit(lambda: entries.complete_of(record_id, completion, self._options.texts, whose))
        self._inserted.pop(record_id, None)

    async def count(self, counts: RequestCounts) -> None:
        """Keep a request's counts; a second time does nothing. Raises LogError."""
        await self._writer.submit(lambda: entries.count_of(counts))

    def note(self, counts: RequestCounts) -> None:
        """`count` without waiting: durable in a moment, dropped where the log is far behind. Never raises."""
        if not self._writer.put(lambda: entries.count_of(counts)):
            logger.debug("the counts of a request are dropped: the log is far behind, or closed")

    async def close(self) -> None:
        """Write all that waits, mark what is still open as interrupted, give everything back. Repeatable."""
        await anyio.to_thread.run_sync(self._writer.close, self._retire)
        self._writing.dispose()
        if self._spool is not None:
            self._spool.close(delete=not self._spool.has_entries)  # else the next process to start replays it
            self._spool = None
        await super().close()

    def _beat(self, connection: Connection) -> None:
        owners.register(connection, self._owner)
        if interrupted := owners.sweep(connection, self._owner, self._options.lease_s):
            logger.warning("%d interventions were left open by a process that died: now 'interrupted'", interrupted)

    def _chore(self, connection: Connection) -> bool:
        """What can wait; a step of it, beside the writes. True where there is more."""
        retention = self._options.retention
        return folding.fold(connection) or (retention is not None and retention.step(connection))

    def _retire(self, connection: Connection) -> None:
        if interrupted := owners.retire(connection, self._owner):
            logger.warning("%d interventions were open when the log closed: now 'interrupted'", interrupted)
