"""Opens adaptive triggers for one process: the API, the selector, and the keeper where they are on."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from proxy.adapters.registry import AdapterRegistry
from proxy.errors import ConfigError
from proxy.judge import Scorer
from proxy.settings import Settings
from proxy.triggers.api import TriggersApi
from proxy.triggers.errors import BadTrigger
from proxy.triggers.keeper import TriggerKeeper
from proxy.triggers.selector import Selector
from proxy.triggers.snapshots import Making
from proxy.triggers.wording import Wording
from steer.categories import WORDS, Categories
from steer.triggers import DEFAULT_TRIGGERS


@dataclass(frozen=True, slots=True)
class Triggers:
    """`selector` decides which pool a request draws from; `api` is for people."""

    api: TriggersApi
    selector: Selector


@asynccontextmanager
async def open_triggers(settings: Settings, scorer: Scorer, wording: Wording) -> AsyncIterator[Triggers]:
    """Until the block ends. Raises ConfigError, LogError."""
    chosen = settings.triggers
    async with AsyncExitStack() as stack:
        registry = stack.enter_context(AdapterRegistry.open(settings.log.url))
        api = TriggersApi(registry, Making.of(chosen), wording, scorer)
        if not chosen.adaptive:
            yield Triggers(api, Selector())
            return
        selector = Selector(Categories(chosen.categories or WORDS))
        pool = settings.policy.triggers or DEFAULT_TRIGGERS
        keeper = TriggerKeeper(registry, chosen, pool, selector)
        try:
            await keeper.start()
        except BadTrigger as error:
            raise ConfigError(str(error)) from error
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keeper.run)
            try:
                yield Triggers(api, selector)
            finally:
                tasks.cancel_scope.cancel()
