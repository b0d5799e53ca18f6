"""Connections of review to the log's database: reads and short writes, each a transaction, in worker threads.

Beside the log's own writing thread, not through it: what a reviewer does never waits for the records of streams, and a
write that a database refuses here never counts as the log's failure.
"""

from collections.abc import Callable
from typing import Self, TypeVar

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine

from proxy.log import migrate
from proxy.log.failures import translated

T = TypeVar("T")


class ReviewStore:
    """Use as an async context manager, or `close` it. Both methods raise LogError, and what they are given raises."""

    def __init__(self, reading: Engine, writing: Engine) -> None:
        self._reading, self._writing = reading, writing

    @classmethod
    def open(cls, url: str) -> Self:
        """Open an existing log; an older schema is upgraded. Blocks. Raises LogError."""
        return cls(*migrate.open_existing(url))

    async def read(self, read: Callable[[Connection], T]) -> T:
        """What `read` finds, in one view of the database."""

        def run() -> T:
            with translated(self._reading.url), self._reading.connect() as connection:
                return read(connection)

        return await anyio.to_thread.run_sync(run)

    async def write(self, write: Callable[[Connection], T]) -> T:
        """What `write` returns, once it is on disk; nothing of it is where it raises."""

        def run() -> T:
            with translated(self._writing.url), self._writing.begin() as connection:
                return write(connection)

        return await anyio.to_thread.run_sync(run)

    async def close(self) -> None:
        """Give back the connections."""
        await anyio.to_thread.run_sync(self._reading.dispose)
        await anyio.to_thread.run_sync(self._writing.dispose)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.close()
