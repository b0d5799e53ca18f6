"""Keeps a process's router in step with the database, and the engines in step with both. Two loops, so that a slow
engine keeps no route from being seen.

Rules kept here
- Routes are read every `refresh_s`, and at the start before the first request: what one proxy or a command changes,
  all others follow within seconds.
- An engine that has lost an adapter (a restart) gets it again: the same weights under the same name.
- A candidate that an engine refuses to load is rolled back; whatever else fails is logged once and tried again.
- A version in shadow that an engine refuses, or has lost, is in shadow no more. One that was is unloaded.
- What drains is unloaded when no living process runs a stream on it any more, and every process has had the time to see
  the new route; at the latest after `drain_timeout_s`.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import anyio
import anyio.to_thread

from proxy.adapters import changes, shadowing, watch
from proxy.adapters.engine import AdapterEngine
from proxy.adapters.errors import AdapterError, EngineRefused
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.router import Router
from proxy.adapters.rows import Adapter, RouteRow, read_adapters, read_routes
from proxy.errors import UpstreamError
from proxy.log.errors import LogError
from steer.adapter import LOADED_STATES, AdapterState, WatchLimits

logger = logging.getLogger("steer.proxy")

# How long a start waits for engines: without one, requests would fail anyhow.
_START_S = 10.0
# Refreshes that another process may be late with a route before a version is taken from under it.
_GRACE_REFRESHES = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """How often is looked, and how long is waited, in seconds."""

    refresh_s: float = 2.0
    drain_timeout_s: float = 3600.0


class Keeper:
    """One a process. `warm` is told of every version that was loaded, before it is chosen for the first time."""

    def __init__(
        self,
        registry: AdapterRegistry,
        engines: Sequence[AdapterEngine],
        router: Router,
        owner_id: str,
        *,
        pace: Pace = Pace(),
        limits: WatchLimits = WatchLimits(),  # noqa: B008 - frozen
        warm: Callable[[str], Awaitable[object]] | None = None,
    ) -> None:
        self._registry = registry
        self._engines = engines
        self._router = router
        self._owner_id = owner_id
        self._pace = pace
        self._limits = limits
        self._warm = warm
        self._adapters: list[Adapter] = []
        self._warmed: set[str] = set()
        self._draining_since: dict[str, float] = {}
        self._told: set[str] = set()
        self._usage: dict[str, int] = {}
        self._in_shadow: dict[tuple[str, str], datetime] = {}  # engine and version seen together, in shadow since

    async def start(self) -> None:
        """The first look at database and engines. Never fails: what can't be had now comes later."""
        await self.refresh()
        with anyio.move_on_after(_START_S):
            await self.reconcile()

    async def run(self) -> None:
        """Until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._loop, self.refresh)
            tasks.start_soon(self._loop, self.reconcile)

    async def _loop(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            await anyio.sleep(self._pace.refresh_s)
            await step()

    # -- database -----------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Tell what was served, look at canaries, read the routes."""
        counted, usage, dropped = self._router.take(), self._router.streams, self._router.take_dropped()
        try:
            routes, self._adapters, done = await anyio.to_thread.run_sync(self._exchange, counted, usage, dropped)
        except (LogError, AdapterError) as error:
            self._router.give_back(counted)
            for id, count in dropped.items():
                self._router.copy_dropped(id, count)
            self._say("refresh", f"adapters and routes stay as they were: {error}")
            return
        self._told.discard("refresh")
        for what in done:
            logger.warning("adapters: %s", what)
        versions = frozenset(adapter.id for adapter in self._adapters)
        self._router.update([row.route for row in routes], versions)

    def _exchange(
        self, counted: dict[int, watch.Counted], usage: dict[str, int], dropped: dict[int, int]
    ) -> tuple[list[RouteRow], list[Adapter], list[str]]:
        registry = self._registry
        if counted:
            registry.change(lambda c: watch.add_all(c, counted))
        counted.clear()  # told: a later failure must not tell it again
        if dropped:
            registry.change(lambda c: shadowing.add_dropped(c, dropped))
        dropped.clear()
        if usage != self._usage:
            registry.change(lambda c: watch.tell_usage(c, self._owner_id, usage))
            self._usage = usage
        routes = registry.read(read_routes)
        running = [row.route.canary_id for row in routes if row.route.canary_id is not None]
        done = [what for id in running if (what := self._judge(id)) is not None]
        return (registry.read(read_routes) if done else routes), registry.read(read_adapters), done

    def _judge(self, canary_id: int) -> str | None:
        return self._registry.change(lambda c: watch.judge(c, canary_id, self._limits))

    # -- engines ------------------------------------------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Load what is missing, unload what has drained, tell the router what all engines hold."""
        wanted = [adapter for adapter in self._adapters if adapter.state in LOADED_STATES]
        draining = [adapter for adapter in wanted if adapter.state is AdapterState.DRAINING]
        try:
            await self._unload_shadows()
            if not wanted:
                self._router.engine_holds(frozenset())
                return
            held = [await self._bring(engine, wanted) for engine in self._engines]
        except UpstreamError as error:
            self._say("engines", f"the engine's adapters are not known: {error}")
            return
        self._told.discard("engines")
        loaded = frozenset.intersection(*held)
        await self._warm_up([adapter.id for adapter in wanted if adapter.id in loaded])
        self._router.engine_holds(loaded)
        for adapter in draining:
            await self._drain(adapter)

    async def _bring(self, engine: AdapterEngine, wanted: Sequence[Adapter]) -> frozenset[str]:
        """What the engine holds, once it holds what it can. What drains is not loaded again."""
        held = await engine.holds()
        for adapter in wanted:
            if adapter.id in held or adapter.state is AdapterState.DRAINING:
                self._note(engine, adapter)
                continue
            if self._in_shadow.get((engine.url, adapter.id)) == adapter.changed_at:
                await self._end_shadow(adapter, f"{engine.url} has lost {adapter.id}: was it restarted?")
                continue
            try:
                await engine.load(adapter.id, adapter.path)
            except EngineRefused as error:
                await self._refused(adapter, error)
                continue
            logger.info("loaded %s into %s", adapter.id, engine.url)
            self._told.discard(adapter.id)
            held |= {adapter.id}
            self._note(engine, adapter)
        return held

    def _note(self, engine: AdapterEngine, adapter: Adapter) -> None:
        if adapter.state is AdapterState.SHADOW:
            self._in_shadow[engine.url, adapter.id] = adapter.changed_at

    async def _unload_shadows(self) -> None:
        """What was in shadow, and is registered again. Other processes may come first."""
        registered = {adapter.id for adapter in self._adapters if adapter.state is AdapterState.REGISTERED}
        for engine in self._engines:
            for url, id in [(url, id) for url, id in self._in_shadow if url == engine.url and id in registered]:
                try:
                    if id in await engine.holds():
                        await engine.unload(id)
                except EngineRefused as error:
                    self._say(id, str(error))
                del self._in_shadow[url, id]

    async def _end_shadow(self, adapter: Adapter, reason: str) -> None:
        self._router.lost(adapter.id)
        try:
            await anyio.to_thread.run_sync(
                self._registry.change, lambda c: shadowing.end_shadow(c, adapter.id, "proxy", reason)
            )
        except (LogError, AdapterError) as failure:
            self._say("refresh", f"{adapter.id} could not be taken out of shadow: {failure}")

    async def _refused(self, adapter: Adapter, error: EngineRefused) -> None:
        self._say(adapter.id, str(error))
        if adapter.state is AdapterState.SHADOW:
            await self._end_shadow(adapter, str(error))
        if adapter.state is not AdapterState.CANARY:
            return
        try:
            await anyio.to_thread.run_sync(
                self._registry.change,
                lambda c: changes.roll_back(c, adapter.alias, "proxy", str(error), only=adapter.id),
            )
        except (LogError, AdapterError) as failure:
            self._say("refresh", f"{adapter.id} could not be rolled back: {failure}")

    async def _warm_up(self, loaded: Sequence[str]) -> None:
        for id in loaded:
            if id not in self._warmed and self._warm is not None:
                try:
                    await self._warm(id)
                except UpstreamError as error:
                    self._say(id, f"{id} was loaded, and does not answer: {error}")
                    continue
            self._warmed.add(id)

    async def _drain(self, adapter: Adapter) -> None:
        since = self._draining_since.setdefault(adapter.id, time.monotonic())
        waited_s = time.monotonic() - since
        if waited_s < _GRACE_REFRESHES * self._pace.refresh_s:
            return
        try:
            streams = await anyio.to_thread.run_sync(self._registry.read, lambda c: watch.streams_on(c, adapter.id))
            if streams or self._router.streams.get(adapter.id):
                if waited_s < self._pace.drain_timeout_s:
                    return
                logger.warning("%s is unloaded under %d streams: it drained for too long", adapter.id, streams)
            for engine in self._engines:
                await engine.unload(adapter.id)
            await anyio.to_thread.run_sync(self._registry.change, lambda c: changes.drained(c, adapter.id))
        except (LogError, AdapterError, UpstreamError) as error:
            self._say(adapter.id, f"{adapter.id} is not unloaded yet: {error}")
            return
        del self._draining_since[adapter.id]
        logger.info("unloaded %s", adapter.id)

    def _say(self, topic: str, message: str) -> None:
        """Once, not at every turn of an outage."""
        if topic not in self._told:
            self._told.add(topic)
            logger.error("%s", message)
