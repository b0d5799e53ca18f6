"""Opens what routes requests to versions: registry, engines, router and keeper, for the application's life."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from proxy.adapters.engine import AdapterEngine
from proxy.adapters.keeper import Keeper, Pace
from proxy.adapters.presence import Presence
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.router import Router
from proxy.capabilities import Prober
from proxy.settings import Settings
from proxy.upstream import UpstreamClient
from steer.adapter import WatchLimits

# What a stopping process may take to tell what it has counted.
_LAST_WORDS_S = 2.0


@asynccontextmanager
async def open_routing(settings: Settings, client: UpstreamClient, prober: Prober) -> AsyncIterator[Router]:
    """The router, with routes and engines looked at once. Raises LogError."""
    chosen = settings.adapters
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(AdapterRegistry.open(settings.log.url))
        presence = stack.enter_context(Presence(registry))
        router = Router(chosen.client)
        keeper = Keeper(
            registry,
            await open_engines(settings, client, stack),
            router,
            presence.owner_id,
            pace=Pace(chosen.refresh_s, chosen.drain_timeout_s),
            limits=WatchLimits(chosen.first_look, chosen.false_alarms),
            warm=lambda id: prober.of(id, {}),
        )
        await keeper.start()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.run)
            try:
                yield router
            finally:
                tasks.cancel_scope.cancel()
        with anyio.move_on_after(_LAST_WORDS_S):
            await keeper.refresh()


async def open_engines(settings: Settings, client: UpstreamClient, stack: AsyncExitStack) -> list[AdapterEngine]:
    """Every engine that must hold the adapters: those that are named, else the one that requests go to."""
    if not settings.adapters.engines:
        return [AdapterEngine(client)]
    key, upstream = settings.upstream.api_key, settings.upstream
    clients = [
        UpstreamClient(
            url,
            api_key=None if key is None else key.get_secret_value(),
            connect_timeout_s=upstream.connect_timeout_s,
            read_timeout_s=upstream.read_timeout_s,
        )
        for url in settings.adapters.engines
    ]
    return [AdapterEngine(await stack.enter_async_context(each)) for each in clients]
