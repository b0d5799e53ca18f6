"""A write that waits for the writing thread, and how its caller is told."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection

from proxy.log.entries import Entry, apply
from proxy.log.errors import LogError

logger = logging.getLogger("steer.log")


@dataclass(eq=False, slots=True)
class Ticket:
    """`make` makes the entry; `loop` and `done` are None where nobody waits."""

    make: Callable[[], Entry]
    loop: asyncio.AbstractEventLoop | None
    done: asyncio.Future[None] | None
    _entry: Entry | None = field(default=None)

    @property
    def entry(self) -> Entry:
        """Made in the thread that writes it, once: redaction and encryption take their time."""
        if self._entry is None:
            self._entry = self.make()
        return self._entry

    def write(self, connection: Connection) -> None:
        """Into the database."""
        apply(connection, self.entry)


def tell(batch: Sequence[Ticket], error: LogError | None) -> None:
    """Wake the callers, each in its own loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for ticket in batch:
        if ticket.loop is not None and ticket.done is not None:
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
