"""Opens shadow mode for one process: the pool of copies, and the API for people."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.router import Router
from proxy.log.setup import make_texts
from proxy.metrics import Metrics
from proxy.settings import Settings
from proxy.shadow.api import AdaptersApi
from proxy.shadow.pool import ShadowPool
from proxy.shadow.running import Copier
from proxy.shadow.store import ShadowStore
from proxy.upstream import UpstreamClient


@asynccontextmanager
async def open_shadow(settings: Settings, router: Router, metrics: Metrics) -> AsyncIterator[Copier]:
    """Until the block ends; what is in work then is dropped. Raises LogError."""
    upstream, chosen = settings.upstream, settings.adapters
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(AdapterRegistry.open(settings.log.url))
        client = await stack.enter_async_context(
            UpstreamClient(
                upstream.url,
                api_key=None if upstream.api_key is None else upstream.api_key.get_secret_value(),
                connect_timeout_s=upstream.connect_timeout_s,
                read_timeout_s=upstream.read_timeout_s,
                max_connections=chosen.shadow_copies,
            )
        )
        store = ShadowStore(registry, make_texts(settings.log))
        pool = ShadowPool(router, store, metrics, copies=chosen.shadow_copies, queue=chosen.shadow_queue)
        yield Copier(await stack.enter_async_context(pool), client)


@contextmanager
def open_adapters_api(settings: Settings) -> Iterator[AdaptersApi]:
    """Until the block ends. Raises LogError."""
    with AdapterRegistry.open(settings.log.url) as registry:
        yield AdaptersApi(registry)
