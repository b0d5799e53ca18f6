"""One thread that writes: takes all that waits, commits it in one transaction, then tells each caller.

Rules
- A caller is told only after the commit: what `submit` returned from is on disk.
- Many callers share one commit, so the price of an fsync is paid once for all of them.
- Once submitted, a write is carried out, whether or not its caller still waits.
- Writes are repeatable (they do nothing the second time), so a transaction that failed may be run again: whole, after a
  broken connection; one by one, where one bad write spoilt it for the others.
- With a spool, a write that the database does not take, or not in time, goes there instead. While anything waits in the
  spool everything goes there, so that writes keep their order; this thread replays it as soon as the database is back.
  What comes while the last of it is replayed waits for that, and then goes to the database.
"""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence

import anyio.to_thread
from sqlalchemy import Connection, Engine

from proxy.log.entries import Entry, dump
from proxy.log.errors import LogClosed, LogError, LogOverloaded, LogUnavailable, RecordRejected, UnknownIntervention
from proxy.log.failures import describe, translated
from proxy.log.replay import adopt, replay
from proxy.log.spool import Spool, SpoolPlace
from proxy.log.tickets import Ticket, tell

logger = logging.getLogger("steer.log")

# More in one transaction gains nothing measurable and makes the first caller wait for the last.
MAX_BATCH = 256
# How often a database that is down is tried again.
RETRY_S = 1.0


class Writer:
    """Owns the writing thread. `beat` runs in it every `beat_s` seconds, in a transaction of its own; `chore`
    after it, a step at a time beside the writes, for as long as it says that there is more.

    `timeout_s` is how long a caller waits for the database: then its write goes to the spool, or fails without one.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        beat: Callable[[Connection], None],
        beat_s: float,
        max_pending: int,
        timeout_s: float,
        chore: Callable[[Connection], bool],
        spool: tuple[Spool, SpoolPlace] | None = None,
    ) -> None:
        self._engine = engine
        self._beat, self._beat_s, self._chore = beat, beat_s, chore
        self._max_pending, self._timeout_s = max_pending, timeout_s
        self._spool = None if spool is None else spool[0]
        self._place = None if spool is None else spool[1]
        self._retry_at = 0.0
        self._pending: list[Ticket] = []
        self._is_closing = False
        self._has_chores = False
        self._changed = threading.Condition()
        self._name = describe(engine.url)
        self.last_error: LogError | None = None
        """Why the database failed the latest transaction; None where it did not. What a readiness check asks."""
        # A daemon: a program that forgets to close the log must still be able to end.
        self._thread = threading.Thread(target=self._run, name="steer-log", daemon=True)
        self._thread.start()

    async def submit(self, make: Callable[[], Entry]) -> None:
        """Queue a write and wait until it is on disk. Raises LogError; on a time-out it may still be written."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        ticket = Ticket(make, loop, done)
        if not self._queue(ticket):
            await self._divert(ticket)
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await done
        except TimeoutError:
            if self._spool is not None:
                await self._divert(ticket)
                return
            raise LogUnavailable(
                f"{self._name} did not confirm a write within {self._timeout_s:g} s: look at the database's load "
                "and disk"
            ) from None

    def put(self, make: Callable[[], Entry]) -> bool:
        """Queue a write that nobody waits for. False where there is no room: it is dropped."""
        with self._changed:
            if self._is_closing or len(self._pending) >= self._max_pending:
                return False
            self._pending.append(Ticket(make, None, None))
            self._changed.notify()
            return True

    def _queue(self, ticket: Ticket) -> bool:
        """Queue for the database; False where the write is to go to the spool."""
        with self._changed:
            if self._is_closing:
                raise LogClosed(f"{self._name} is closed; write before close()")
            is_full = len(self._pending) >= self._max_pending
            if self._spool is not None and (is_full or (self._spool.has_entries and not self._spool.is_ending)):
                return False
            if is_full:
                raise LogOverloaded(
                    f"{self._name} has {len(self._pending)} writes waiting: the database is too slow or hangs; give it "
                    "a faster disk, or share the load"
                )
            self._pending.append(ticket)
            self._changed.notify()
            return True

    async def _divert(self, ticket: Ticket) -> None:
        """Into the spool. Where the write is under way as well, the second of the two will do nothing."""
        spool = self._spool
        assert spool is not None, "asked by the caller"
        with self._changed:
            if ticket in self._pending:
                self._pending.remove(ticket)
        await anyio.to_thread.run_sync(lambda: spool.append(dump(ticket.entry)))
        with self._changed:
            self._changed.notify()

    def close(self, last: Callable[[Connection], None]) -> None:
        """Write all that waits, then `last`, and end the thread. Blocks; further calls do nothing."""
        with self._changed:
            is_first = not self._is_closing
            self._is_closing = True
            self._changed.notify()
        self._thread.join()
        if is_first:
            self._attempt([last])

    def _run(self) -> None:
        next_beat = time.monotonic() + self._beat_s
        while True:
            batch, is_closing = self._take(next_beat)
            self._drain(is_closing=is_closing)
            if batch:
                self._commit(batch)
            elif is_closing:
                return
            if self._has_chores:
                self._attempt([self._do_chore])
            if time.monotonic() >= next_beat:
                if self._attempt([self._beat]) is None and self._place is not None:
                    adopt(self._place, self._attempt)
                self._has_chores = True
                next_beat = time.monotonic() + self._beat_s

    def _do_chore(self, connection: Connection) -> None:
        self._has_chores = False  # also where it fails: the next beat tries again
        self._has_chores = self._chore(connection)

    def _take(self, next_beat: float) -> tuple[list[Ticket], bool]:
        with self._changed:
            if not self._pending and not self._is_closing and not self._has_chores:
                due = next_beat
                if self._spool is not None and self._spool.has_entries:
                    due = min(due, self._retry_at)
                self._changed.wait(max(due - time.monotonic(), 0))
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            return batch, self._is_closing

    def _drain(self, *, is_closing: bool) -> None:
        """Replay the spool, unless the database was just seen to be down."""
        if self._spool is None or not self._spool.has_entries:
            return
        if time.monotonic() < self._retry_at and not is_closing:
            return
        most_s = math.inf if is_closing else self._beat_s / 2  # heartbeats go on while an hour's outage is replayed
        if replay(self._spool, self._attempt, most_s=most_s) is not None:
            self._retry_at = time.monotonic() + RETRY_S

    def _commit(self, batch: list[Ticket]) -> None:
        if self._spool is not None and self._spool.has_entries:  # what was queued before must not overtake it
            self._keep(batch)
            return
        error = self._attempt([ticket.write for ticket in batch])
        if error is None:
            tell(batch, None)
        elif not _is_one_writes_fault(error):
            self._fail(batch, error)
        elif len(batch) == 1:
            tell(batch, error)
        else:
            for ticket in batch:  # one of them is at fault: let it fail alone
                self._commit([ticket])

    def _fail(self, batch: Sequence[Ticket], error: LogError) -> None:
        if self._spool is None:
            tell(batch, error)
            return
        self._retry_at = time.monotonic() + RETRY_S
        self._keep(batch)

    def _keep(self, batch: Sequence[Ticket]) -> None:
        """Into the spool, from this thread."""
        assert self._spool is not None, "asked by the caller"
        lines: list[bytes] = []
        kept: list[Ticket] = []
        for ticket in batch:
            try:
                lines.append(dump(ticket.entry))
            except Exception as error:  # noqa: BLE001 - as in _transact
                tell([ticket], _bug(self._name, error))
            else:
                kept.append(ticket)
        try:
            self._spool.append(*lines)
        except LogError as error:
            tell(kept, error)
        else:
            tell(kept, None)

    def _attempt(self, writes: Sequence[Callable[[Connection], None]]) -> LogError | None:
        """Run the writes in one transaction, again where the connection broke. Returns what is still wrong then."""
        error = self._transact(writes)
        if type(error) is LogUnavailable:  # a full disk or a lock has been waited for; a new connection may do
            error = self._transact(writes)
        trouble = None if error is None or _is_one_writes_fault(error) else error
        if trouble is not None and type(trouble) is not type(self.last_error):
            logger.error("%s", trouble)  # once, not for every write of an outage
        self.last_error = trouble
        return error

    def _transact(self, writes: Sequence[Callable[[Connection], None]]) -> LogError | None:
        try:
            with translated(self._engine.url), self._engine.begin() as connection:
                for write in writes:
                    write(connection)
        except LogError as error:
            return error
        except Exception as error:  # noqa: BLE001 - the thread serves all callers; the one at fault is told
            return _bug(self._name, error)
        return None


def _is_one_writes_fault(error: LogError) -> bool:
    return isinstance(error, RecordRejected | UnknownIntervention)


def _bug(name: str, error: Exception) -> RecordRejected:
    return RecordRejected(f"{name}: a write failed ({type(error).__name__}); please report this as a bug")
