"""The two-phase record of one stream's interventions, written beside the stream and awaited where it matters.

`open` starts an insert at once and returns; `settled` waits until everything begun is durable, and is what the session
awaits before it shows anything after a cut, and before the terminal frame. Writes are shielded from cancellation: a
client that leaves takes its stream with it, never its records.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from proxy.log.errors import LogError
from steer.record import Completion, InterventionRecord

# How long a write may keep a departing stream's task alive; the log's own queue is far quicker.
WRITE_TIMEOUT_S = 10.0


class Log(Protocol):
    """What a session needs of the intervention log. Both calls return once durable, and may be repeated."""

    async def insert(self, record: InterventionRecord) -> None:
        """First phase."""

    async def complete(self, record_id: str, completion: Completion) -> None:
        """Second phase."""


class Journal:
    """Records of one choice, in order."""

    def __init__(self, log: Log, tasks: TaskGroup) -> None:
        self._log = log
        self._tasks = tasks
        self._open: InterventionRecord | None = None
        self._writes = 0
        self._error: LogError | None = None
        self._idle = anyio.Event()
        self._idle.set()

    @property
    def record(self) -> InterventionRecord | None:
        """The record that waits for its completion."""
        return self._open

    def open(self, record: InterventionRecord) -> None:
        """Begin to insert a record; the one before must be closed."""
        assert self._open is None, "a record is still open"
        self._open = record
        self._start(lambda: self._log.insert(record))

    def close(self, completion: Completion) -> None:
        """Begin to complete the open record, after its insert."""
        record, self._open = self._open, None
        assert record is not None, "no record is open"

        async def write() -> None:
            await self._log.insert(record)  # repeated: durable already unless the insert was cancelled or failed
            await self._log.complete(record.id, completion)

        self._start(write)

    async def settled(self) -> None:
        """Wait until every write begun is durable. Raises the first LogError since the last call."""
        while self._writes:
            await self._idle.wait()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _start(self, write: Callable[[], Awaitable[None]]) -> None:
        if not self._writes:
            self._idle = anyio.Event()
        self._writes += 1
        self._tasks.start_soon(self._write, write)

    async def _write(self, write: Callable[[], Awaitable[None]]) -> None:
        try:
            with anyio.fail_after(WRITE_TIMEOUT_S, shield=True):
                await write()
        except TimeoutError:
            self._error = self._error or LogError(f"the intervention log took more than {WRITE_TIMEOUT_S:.0f} s")
        except LogError as error:
            self._error = self._error or error
        except Exception as error:  # noqa: BLE001 - whatever it is, the policy decides about a log that fails
            self._error = self._error or LogError(f"the intervention log failed ({type(error).__name__})")
        finally:
            self._writes -= 1
            if not self._writes:
                self._idle.set()
