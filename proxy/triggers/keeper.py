"""Keeps a process's selector in step with the database, and the selection table in step with the log.

The newest table is looked for every `refresh_s`, so what one process or command publishes is drawn from by all within
seconds; a new one is made every `refresh_minutes` by whichever proxy comes first (a row of `chores` says when).
Failures are told once and tried again: until then the last table, or the fixed pool, goes on.
"""

import logging
from collections.abc import Sequence

import anyio
import anyio.to_thread
from sqlalchemy import Connection, select, update

from proxy.adapters.registry import AdapterRegistry
from proxy.log.errors import LogError
from proxy.log.rows import now_us
from proxy.log.sql import insert_once
from proxy.log.tables import chores
from proxy.settings import TriggerSettings
from proxy.triggers.changes import PROXY, adopt_pool
from proxy.triggers.errors import TriggerError
from proxy.triggers.selector import Selector
from proxy.triggers.snapshots import Making, newest_version, read_table, refresh
from steer.trigger_table import TriggerTable
from steer.triggers import Trigger

logger = logging.getLogger("steer.proxy")

_CHORE = "triggers"


class TriggerKeeper:
    """One a process with adaptive triggers. Raises nothing but BadTrigger, at the start."""

    def __init__(
        self, registry: AdapterRegistry, settings: TriggerSettings, pool: Sequence[Trigger], selector: Selector
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._making = Making.of(settings)
        self._pool = pool
        self._selector = selector
        self._is_told = False
        self._is_adopted = False

    async def start(self) -> None:
        """The settings' pool joins, and the first table is read. Raises BadTrigger; what else fails comes later."""
        await self.look()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(self._settings.refresh_s)
            await self.look()

    async def look(self) -> None:
        """Once: the newest table, and a newer one where it is time."""
        try:
            table = await anyio.to_thread.run_sync(self._exchange)
        except LogError as error:
            self._say(f"selection of triggers stays as it was: {error}")
            return
        self._is_told = False
        if table is not None:
            self._selector.update(table)
            logger.info("triggers are drawn by selection table %s", table.name)

    def _exchange(self) -> TriggerTable | None:
        """The newest table, where it is not the one that is drawn from."""
        if not self._is_adopted:
            self._registry.change(self._adopt)
            self._is_adopted = True
        if self._registry.read(self._is_due):
            try:
                self._registry.change(self._refresh)
            except TriggerError as error:
                self._say(f"no new selection table: {error}")
        newest = self._registry.read(newest_version)
        return None if newest in (0, self._selector.version) else self._registry.read(read_table)

    def _adopt(self, connection: Connection) -> None:
        adopt_pool(connection, self._pool)
        refresh(connection, self._making, PROXY.id)

    def _is_due(self, connection: Connection) -> bool:
        done_us = connection.execute(select(chores.c.done_us).where(chores.c.name == _CHORE)).scalar() or 0
        return done_us <= now_us() - self._settings.refresh_minutes * 60e6 or newest_version(connection) == 0

    def _refresh(self, connection: Connection) -> None:
        """Once, whoever else finds it due at this moment."""
        insert_once(connection, chores, {"name": _CHORE, "done_us": 0})
        connection.execute(select(chores.c.done_us).where(chores.c.name == _CHORE).with_for_update()).scalar_one()
        if self._is_due(connection):
            refresh(connection, self._making, PROXY.id)
            connection.execute(update(chores).where(chores.c.name == _CHORE).values(done_us=now_us()))

    def _say(self, message: str) -> None:
        """Once, not at every turn of an outage."""
        if not self._is_told:
            self._is_told = True
            logger.error("%s", message)
