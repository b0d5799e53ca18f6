"""What one process knows of keys and tenants: a snapshot in memory, brought up to date by a thread.

Requests never wait for the database to be let in. The thread looks at `access_version` every REFRESH_S, so that a
revoked key is refused everywhere within a few seconds. While the database can't be asked, a key that is not in the
snapshot can't be called wrong (503, not 401); those that are in it go on until the snapshot is too old, which the gate
decides. A thread, not a task: it may block in a driver for as long as that hangs, and a busy event loop can't delay it.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import anyio
import anyio.to_thread

from proxy.access.model import DEFAULT, Key, Tenant
from proxy.access.store import AccessStore, Content
from proxy.access.tenants import Rules
from proxy.errors import ConfigError
from proxy.log.errors import LogError
from proxy.log.rows import now_us

logger = logging.getLogger("steer.access")

# A change is seen everywhere within CURRENT_S: this, one read, and as much again to spare.
REFRESH_S = 2.0
CURRENT_S = 5.0
# A wrong key is looked for in the database before it is called wrong (it may be new). All that come within this time
# wait for one look.
_MISSES_EVERY_S = 0.5
_MISS_WAIT_S = 2.0
# "Last used" is for people who look for keys that nobody needs: minutes are exact enough, and cheap.
_USED_EVERY_S = 60.0

MakeRules = Callable[[Mapping[str, Any]], Rules]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Keys and tenants as they were at `read_at` (monotonic seconds). A tenant without rules has an unusable policy."""

    read_at: float = -float("inf")
    version: int | None = None
    keys: Mapping[str, Key] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(default_factory=lambda: {DEFAULT.name: DEFAULT})
    rules: Mapping[str, Rules] = field(default_factory=dict)


class Directory:
    """The snapshot of one process. Start it with `with`; leaving ends the thread."""

    def __init__(
        self,
        store: AccessStore,
        make_rules: MakeRules,
        refresh_s: float = REFRESH_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._clock = clock
        self._make_rules = make_rules
        self._refresh_s = refresh_s
        self._snapshot = Snapshot()
        self._reading = threading.Lock()
        self._is_reachable = True
        self._looking = anyio.Lock()
        self._looked_at = -float("inf")
        self._used_us: dict[str, int] = {}
        self._used_at = clock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="steer-access", daemon=True)

    def __enter__(self) -> "Directory":
        """Reads once. Raises LogError: a process must not start without knowing whom it may serve."""
        self._read()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._closing.set()
        self._thread.join(self._refresh_s)  # a daemon: one that hangs in a driver does not keep the process alive
        self._note_used()

    @property
    def snapshot(self) -> Snapshot:
        """What is known now."""
        return self._snapshot

    @property
    def age_s(self) -> float:
        """How long ago the database last confirmed the snapshot."""
        return self._clock() - self._snapshot.read_at

    @property
    def is_current(self) -> bool:
        """Whether a key that is not in the snapshot is one that there is not."""
        return self._is_reachable and self.age_s <= CURRENT_S

    async def look_again(self) -> None:
        """Ask the database, for a key that is not known. What it knew when this was called is then in the snapshot."""
        called_at = self._clock()
        async with self._looking:
            if self._looked_at > called_at:
                return  # another's look, which began later than this call
            await anyio.sleep(max(0.0, self._looked_at + _MISSES_EVERY_S - self._clock()))
            self._looked_at = self._clock()
            with anyio.move_on_after(_MISS_WAIT_S) as waited:
                await anyio.to_thread.run_sync(self._refresh, abandon_on_cancel=True)
            if waited.cancelled_caught:
                self._is_reachable = False

    def used(self, key: Key) -> None:
        """A key let somebody in."""
        self._used_us[key.id] = now_us()

    def _run(self) -> None:
        while not self._closing.wait(self._refresh_s):
            self._refresh()
            if self._clock() - self._used_at >= _USED_EVERY_S:
                self._note_used()

    def _refresh(self) -> None:
        if not self._reading.acquire(timeout=_MISS_WAIT_S):  # another read hangs: no thread waits behind it for ever
            self._is_reachable = False
            return
        try:
            self._read()
        except LogError as error:
            if self._is_reachable:
                logger.error("keys can't be read, those that are known go on: %s", error)
            self._is_reachable = False
        else:
            if not self._is_reachable:
                logger.info("keys can be read again")
            self._is_reachable = True
        finally:
            self._reading.release()

    def _read(self) -> None:
        asked_at, known = self._clock(), self._snapshot
        content = self._store.content(known.version)
        if content is None:
            self._snapshot = replace(known, read_at=asked_at)
        else:
            self._snapshot = self._snapshot_of(content, asked_at)

    def _snapshot_of(self, content: Content, asked_at: float) -> Snapshot:
        rules: dict[str, Rules] = {}
        for tenant in content.tenants.values():
            try:
                rules[tenant.name] = self._make_rules(tenant.policy)
            except ConfigError as error:
                logger.error("tenant %s is not served, its policy can't be used here: %s", tenant.name, error)
        return Snapshot(asked_at, content.version, content.keys, content.tenants, rules)

    def _note_used(self) -> None:
        self._used_at = self._clock()
        used, self._used_us = self._used_us, {}
        if not used:
            return
        try:
            self._store.mark_used(used)
        except LogError as error:
            logger.warning("when keys were last used can't be noted: %s", error)
