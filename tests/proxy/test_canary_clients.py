"""A canary's verdict and its clients, in a real database and through the router."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from sqlalchemy import func, select

from proxy.access.identity import LOCAL, Identity
from proxy.access.roles import Role
from proxy.adapters import changes, watch
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.router import Client, Routed, Router
from proxy.adapters.rows import read_adapters, read_canary, read_routes
from proxy.adapters.tables import adapter_canary_clients
from proxy.guard import ChatRequest, Limits, check_chat_request
from steer.adapter import WatchLimits


@pytest.fixture
def registry(log_url: str) -> Iterator[AdapterRegistry]:
    with AdapterRegistry.open(log_url) as opened:
        yield opened


class Halted:
    """A stream that is over."""

    error = None

    def __init__(self, was_halted: bool) -> None:
        self.was_halted = was_halted


class Service:
    """A canary at one half, and proxies whose routers count for it."""

    def __init__(self, registry: AdapterRegistry, promote_after: int | None, client: Client = "key") -> None:
        self.registry = registry
        for number in (1, 2):
            new = changes.NewAdapter("safe", "public", "base", f"/{number}", f"{number}", {}, {"promotes": True})
            registry.change(partial(changes.register, new=new, actor="test"))
        registry.change(lambda c: changes.promote(c, "safe@1", "test", None))
        self.canary = registry.change(lambda c: changes.start_canary(c, "safe@2", 0.5, "test", None, promote_after))
        self.proxies = [Router(client), Router(client)]
        for router in self.proxies:
            router.update([row.route for row in registry.read(read_routes)], frozenset({"safe@1", "safe@2"}))
            router.engine_holds(frozenset({"safe@1", "safe@2"}))

    def ask(self, identity: Identity, text: str, **body: Any) -> None:
        """One conversation, halted where the candidate answers one that says so."""
        said = {"model": "public", "messages": [{"role": "user", "content": text}]} | body
        request = check_chat_request(said, Limits())

        async def serve(_request: ChatRequest, routed: Routed) -> None:
            routed.streams.append(Halted("bad" in text and routed.adapter == "safe@2"))

        anyio.run(self.proxies[len(text) % 2].serve, request, identity, serve)

    def told(self) -> str | None:
        """What the proxies do about it once they have told their counts."""
        for router in self.proxies:
            counted = router.take()
            self.registry.change(partial(watch.add_all, counted=counted))
        return self.registry.change(lambda c: watch.judge(c, self.canary, WatchLimits()))

    @property
    def states(self) -> dict[str, str]:
        return {adapter.id: str(adapter.state) for adapter in self.registry.read(read_adapters)}


def key(number: int) -> Identity:
    return Identity("default", Role.CLIENT, f"k{number}")


@pytest.mark.parametrize("words", ["bad", "good"])
def test_a_flood_of_one_client_neither_rolls_back_nor_promotes_and_the_same_of_many_does(
    registry: AdapterRegistry, words: str
) -> None:
    service = Service(registry, promote_after=100)
    for number in range(40):
        service.ask(key(number % 8), f"plain {number}")
    for number in range(400):
        service.ask(key(99), f"{words} {'x' * (number % 2)}{number}")
    assert service.told() is None
    assert service.states["safe@2"] == "canary"
    canary = registry.read(lambda c: read_canary(c, service.canary))
    assert canary.of_candidate.conversations > 150, "all of it is kept, and shown"
    for number in range(400):
        service.ask(key(number % 40), f"{words} again {'x' * (number % 2)}{number}")
    done = service.told()
    assert done is not None
    assert done.startswith("rolled back safe@2" if words == "bad" else "promoted safe@2")
    rows = registry.read(lambda c: c.execute(select(func.count()).select_from(adapter_canary_clients)).scalar())
    assert rows == 0, "who said what is forgotten with the episode"


def test_a_key_that_serves_many_users_can_be_told_to_count_them(registry: AdapterRegistry) -> None:
    service = Service(registry, None, client="user")
    for number in range(200):
        service.ask(key(1), f"bad {'x' * (number % 2)}{number}", user=f"u{number % 20}")
    assert (service.told() or "").startswith("rolled back safe@2")


@pytest.mark.parametrize(("client", "who"), [("key", LOCAL), ("conversation", key(1))])
def test_where_clients_are_not_told_apart_every_conversation_is_a_witness(
    registry: AdapterRegistry, client: Client, who: Identity
) -> None:
    service = Service(registry, None, client=client)
    for number in range(100):
        service.ask(who, f"bad {'x' * (number % 2)}{number}", user=f"u{number % 20}")
    assert (service.told() or "").startswith("rolled back safe@2")


def test_a_client_is_one_over_all_proxies_and_an_ended_episode_takes_no_more(registry: AdapterRegistry) -> None:
    service = Service(registry, None)
    for number in range(20):
        service.ask(key(1), f"plain {'x' * (number % 2)}{number}")
    service.told()
    table = adapter_canary_clients
    query = select(table.c.side, func.sum(table.c.conversations), func.count()).group_by(table.c.side)
    rows = {side: (int(n), clients) for side, n, clients in registry.read(lambda c: c.execute(query).all())}
    assert sum(n for n, _ in rows.values()) == 20
    assert all(clients == 1 for _, clients in rows.values())
    registry.change(lambda c: changes.roll_back(c, "public", "test", "enough"))
    service.ask(key(1), "plain and late")
    service.told()
    assert registry.read(lambda c: c.execute(query).all()) == []
