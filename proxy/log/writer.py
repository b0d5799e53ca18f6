"""One thread that writes: takes all that waits, commits it in one transaction, then tells each caller.

Rules
- A caller is told only after the commit: what `submit` returned from is on disk.
- Many callers share one commit, so the price of an fsync is paid once for all of them.
- Once submitted, a write is carried out, whether or not its caller still waits.
- Writes are repeatable (they do nothing the second time), so a transaction that failed may be run again: whole, after a
  broken connection; one by one, where one bad write spoilt it for the others.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from proxy.log.errors import LogClosed, LogError, LogOverloaded, LogUnavailable, RecordRejected, UnknownIntervention
from proxy.log.failures import describe, translated

logger = logging.getLogger("steer.log")

# More in one transaction gains nothing measurable and makes the first caller wait for the last.
MAX_BATCH = 256


@dataclass(frozen=True, slots=True)
class _Ticket:
    write: Callable[[Connection], None]
    loop: asyncio.AbstractEventLoop
    done: asyncio.Future[None]


class Writer:
    """Owns the writing thread. `beat` runs in it every `beat_s` seconds, in a transaction of its own."""

    def __init__(
        self,
        engine: Engine,
        *,
        beat: Callable[[Connection], None],
        beat_s: float,
        max_pending: int,
        timeout_s: float,
    ) -> None:
        self._engine = engine
        self._beat, self._beat_s = beat, beat_s
        self._max_pending, self._timeout_s = max_pending, timeout_s
        self._pending: list[_Ticket] = []
        self._is_closing = False
        self._changed = threading.Condition()
        self._name = describe(engine.url)
        self.last_error: LogError | None = None
        """Why the database failed the latest transaction; None where it did not. What a readiness check asks."""
        # A daemon: a program that forgets to close the log must still be able to end.
        self._thread = threading.Thread(target=self._run, name="steer-log", daemon=True)
        self._thread.start()

    async def submit(self, write: Callable[[Connection], None]) -> None:
        """Queue a write and wait until it is on disk. Raises LogError; on a time-out it may still be written."""
        loop = asyncio.get_running_loop()
        ticket = _Ticket(write, loop, loop.create_future())
        with self._changed:
            if self._is_closing:
                raise LogClosed(f"{self._name} is closed; write before close()")
            if len(self._pending) >= self._max_pending:
                raise LogOverloaded(
                    f"{self._name} has {len(self._pending)} writes waiting: the database is too slow or hangs; give it "
                    "a faster disk, or share the load"
                )
            self._pending.append(ticket)
            self._changed.notify()
        try:
            async with asyncio.timeout(self._timeout_s):
                await ticket.done
        except TimeoutError:
            raise LogUnavailable(
                f"{self._name} did not confirm a write within {self._timeout_s:g} s: look at the database's load "
                "and disk"
            ) from None

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
            batch, is_closing = self._take(next_beat - time.monotonic())
            if batch:
                self._commit(batch)
            elif is_closing:
                return
            if time.monotonic() >= next_beat:
                self._attempt([self._beat])
                next_beat = time.monotonic() + self._beat_s

    def _take(self, wait_s: float) -> tuple[list[_Ticket], bool]:
        with self._changed:
            if not self._pending and not self._is_closing:
                self._changed.wait(max(wait_s, 0))
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            return batch, self._is_closing

    def _commit(self, batch: list[_Ticket]) -> None:
        error = self._attempt([ticket.write for ticket in batch])
        if error is None or len(batch) == 1 or isinstance(error, LogUnavailable):
            _tell(batch, error)
            return
        for ticket in batch:  # one of them is at fault: let it fail alone
            _tell([ticket], self._attempt([ticket.write]))

    def _attempt(self, writes: Sequence[Callable[[Connection], None]]) -> LogError | None:
        """Run the writes in one transaction, again where the connection broke. Returns what is still wrong then."""
        error = self._transact(writes)
        if type(error) is LogUnavailable:  # a full disk or a lock has been waited for; a new connection may do
            error = self._transact(writes)
        trouble = None if isinstance(error, RecordRejected | UnknownIntervention) else error
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
            return RecordRejected(f"{self._name}: a write failed ({type(error).__name__}); please report this as a bug")
        return None


def _tell(batch: Sequence[_Ticket], error: LogError | None) -> None:
    """Wake the callers, each in its own loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for ticket in batch:
        by_loop.setdefault(ticket.loop, []).append(ticket.done)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_wake, waiting, error)
        except RuntimeError:  # the loop has ended: nobody waits there any more
            logger.debug("%d writes ended after their event loop", len(waiting))


def _wake(waiting: Sequence[asyncio.Future[None]], error: LogError | None) -> None:
    for done in waiting:
        if done.done():  # cancelled or timed out
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(type(error)(*error.args))  # one each: a raised exception carries its own traceback
