"""The registry: the adapters' tables behind one door. Blocks, like the database; the proxy calls it from threads.

`read` and `change` take a function of a connection (`proxy.adapters.rows`, `proxy.adapters.changes`) and run it in one
transaction; a change that meets another's is run again.
"""

from collections.abc import Callable
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine

from proxy.log import migrate
from proxy.log.connect import parse_url, prepare_file
from proxy.log.errors import LogUnavailable
from proxy.log.failures import translated

T = TypeVar("T")


class AdapterRegistry:
    """Versions and routes of one log. Use as a context manager, or `close` it."""

    def __init__(self, reading: Engine, writing: Engine) -> None:
        self._reading = reading
        self._writing = writing

    @classmethod
    def open(cls, url: str) -> Self:
        """In the log's own database, made or upgraded if need be. Raises LogError."""
        parsed = parse_url(url)
        prepare_file(parsed)
        return cls(*migrate.open_upgraded(parsed))

    def read(self, query: Callable[[Connection], T]) -> T:
        """What `query` finds. Raises LogError."""
        with translated(self._reading.url), self._reading.connect() as connection:
            return query(connection)

    def change(self, change: Callable[[Connection], T]) -> T:
        """All of `change`, or nothing of it. Raises LogError, and what the change raises."""
        try:
            return self._transact(change)
        except LogUnavailable as error:
            if type(error) is not LogUnavailable:
                raise  # full or locked: that has been waited for
            return self._transact(change)  # two that met, or a connection that broke: nothing was written

    def _transact(self, change: Callable[[Connection], T]) -> T:
        with translated(self._writing.url), self._writing.begin() as connection:
            return change(connection)

    def close(self) -> None:
        """Give the connections back."""
        self._reading.dispose()
        self._writing.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()
