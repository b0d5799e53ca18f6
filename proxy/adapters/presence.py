"""A living process, in the log's own list of them: what its streams and locks hang on, so that a crash sets them free.

A thread renews the entry; who stops renewing, or is seen to be dead from the same machine, is taken out by the next
that looks (`proxy.log.owners`).
"""

import logging
import threading
from typing import Self

from proxy.adapters.registry import AdapterRegistry
from proxy.log import owners
from proxy.log.errors import LogError
from proxy.log.owners import HEARTBEAT_S, Owner

logger = logging.getLogger("steer.proxy")


class Presence:
    """Use as a context manager around what must be seen to live. Raises LogError at the start, never later."""

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry
        self._owner = Owner.here()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="steer-presence", daemon=True)

    @property
    def owner_id(self) -> str:
        """This process's entry."""
        return self._owner.owner_id

    def __enter__(self) -> Self:
        self._registry.change(lambda c: owners.register(c, self._owner))
        self._registry.change(lambda c: owners.sweep(c, self._owner))
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ending.set()
        self._thread.join()
        try:
            self._registry.change(lambda c: owners.retire(c, self._owner))
        except LogError as error:
            logger.warning("this process stays in the log's list until its lease ends: %s", error)

    def _beat(self) -> None:
        while not self._ending.wait(HEARTBEAT_S):
            try:
                self._registry.change(lambda c: owners.register(c, self._owner))
            except LogError as error:
                logger.warning("no sign of life could be written: %s", error)
