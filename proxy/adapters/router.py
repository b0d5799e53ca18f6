"""Who gets which version: the routes as this process last saw them, and what it has served since it last told.

Rules kept here
- One request stays on the version that it was given, resumes included; so does its conversation while the route stays.
- A version is counted as used from the choice to the end of the stream, so that none is unloaded under one.
- A version that the engine no longer knows is out at once, and the request goes to the next best.
- A conversation counts once an episode: who repeats one request a thousand times is one witness. It counts as its
  client's, and no client decides alone (`steer.witnesses`).
- A share of what the champion serves is copied to the version in shadow: by chance alone, which no client can foresee.
- Clients ask for aliases. The engine's own names of versions are not theirs to choose from.
Everything happens in one event loop; nothing here blocks.
"""

import hashlib
import json
import logging
import random
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from proxy.access.identity import Identity
from proxy.adapters.watch import Counted, Side
from proxy.errors import RequestError, UpstreamError, UpstreamStatusError
from proxy.guard import ChatRequest
from steer.adapter import Choice, Route, Traffic, choose, conversation_key, is_passing

logger = logging.getLogger("steer.proxy")

# Conversations remembered as counted, of the latest episodes; beyond, the oldest may be counted a second time.
_MAX_SEEN = 50_000


class Ended(Protocol):
    """What a stream tells when it is over (`proxy.session.Session`)."""

    @property
    def was_halted(self) -> bool:
        """Whether a cue was found in it."""

    @property
    def error(self) -> UpstreamError | None:
        """What broke it."""


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What copies of a request go to: a version, in an episode. `client`: whose request it is, as far as told apart."""

    id: int
    adapter: str
    client: str


@dataclass(slots=True)
class Routed:
    """One request on its way. `base_model` and `adapter` are what records say; `streams` is filled by the server.
    `shadowed`: a copy of it is asked for."""

    base_model: str
    adapter: str | None = None
    shadowed: Shadowed | None = None
    streams: list[Ended] = field(default_factory=list)


Serve = Callable[[ChatRequest, Routed], Awaitable[None]]
Client = Literal["key", "user", "conversation"]


class Router:
    """One a process. `update` brings the routes; `choose` to `serve` use them; `take` hands over what was counted."""

    def __init__(self, client: Client = "key") -> None:
        """`client`: who counts as one client (`adapters.client`)."""
        self._client = client
        self._routes: Mapping[str, Route] = {}
        self._versions: frozenset[str] = frozenset()
        self._loaded: frozenset[str] = frozenset()
        self._streams: Counter[str] = Counter()
        self._counts: dict[int, dict[Side, dict[str, Traffic]]] = {}
        self._dropped: Counter[int] = Counter()
        self.shadows: frozenset[int] = frozenset()  # episodes that go on
        self.on_shadows: Callable[[frozenset[int]], None] = lambda _ids: None  # told when they may have changed
        self._seen: OrderedDict[tuple[int, str], None] = OrderedDict()

    @property
    def streams(self) -> dict[str, int]:
        """Streams in work by version."""
        return dict(+self._streams)

    def update(self, routes: Sequence[Route], versions: frozenset[str]) -> None:
        """The routes as the database has them, and every version that there ever was."""
        self._routes = {route.alias: route for route in routes}
        self._versions = versions
        self.shadows = frozenset(route.shadow_id for route in routes if route.shadow_id is not None)
        self.on_shadows(self.shadows)

    def engine_holds(self, loaded: frozenset[str]) -> None:
        """What every engine holds."""
        self._loaded = loaded

    async def serve(self, request: ChatRequest, identity: Identity, serve: Serve) -> None:
        """Serve a request on its version; where that is lost, or is a candidate that fails, on the next best.

        Raises RequestError for a version asked for by name, and what `serve` raises; nothing has been shown then.
        """
        model = str(request.body["model"])
        route = self._route(model)
        if route is None:
            await serve(request, Routed(model))
            return
        user = request.body.get("user")
        user = user if isinstance(user, str) else None
        key, client = conversation_key(identity.tenant, user, request.messages), self._client_of(identity, user)
        failed: frozenset[str] = frozenset()
        while True:
            choice = choose(route, key, self._loaded - failed)
            body = request.body | {"model": choice.served}
            named = request if choice.served == model else replace(request, body=body)
            try:
                with self._in_use(route, choice, key, client) as routed:
                    await serve(named, routed)
                return
            except UpstreamError as error:
                if choice.adapter is None:
                    raise
                if isinstance(error, UpstreamStatusError) and error.status == 404:
                    logger.warning("the engine no longer knows %s: going on without it", choice.adapter)
                    self.lost(choice.adapter)
                elif choice.is_candidate and _is_failure(error):
                    failed |= {choice.adapter}  # counted against it; this client is not to suffer for it
                else:
                    raise

    def models(self, listed: bytes) -> bytes:
        """The engine's model list as clients may see it: aliases in, versions out; as it came where there are none."""
        try:
            body = json.loads(listed)
            items = {str(item["id"]): item for item in body["data"]}
        except (ValueError, KeyError, TypeError):
            return listed
        shown = [item for id, item in items.items() if not self._is_inner(id)]
        if not self._routes and len(shown) == len(items):
            return listed
        for alias, route in self._routes.items():
            if alias not in items:
                like = items.get(route.base_model, {"object": "model"})
                shown.append(like | {"id": alias, "root": route.base_model})
        return json.dumps(body | {"data": shown}).encode()

    def take(self) -> dict[int, Counted]:
        """What was counted since the last call, by episode."""
        counted, self._counts = self._counts, {}
        return dict(counted)

    def give_back(self, counted: Mapping[int, Counted]) -> None:
        """What could not be told, for the next time."""
        for canary_id, sides in counted.items():
            for side, clients in sides.items():
                for client, traffic in clients.items():
                    self._add(canary_id, side, client, traffic)

    def copy_dropped(self, shadow_id: int, count: int = 1) -> None:
        """Copies that were not made, or not to their end."""
        self._dropped[shadow_id] += count

    def take_dropped(self) -> dict[int, int]:
        """Those since the last call, by episode."""
        dropped, self._dropped = self._dropped, Counter()
        return dict(dropped)

    def lost(self, adapter: str) -> None:
        """The engine has said that it no longer knows a version."""
        self._loaded -= {adapter}

    def _route(self, model: str) -> Route | None:
        route = self._routes.get(model)
        if route is None and self._is_inner(model):
            raise RequestError(
                404, f"the model {model!r} is not served by that name: ask for its alias", "model", "model_not_found"
            )
        return route

    def _is_inner(self, model: str) -> bool:
        """Whether the name is between us and the engine: a version, or a candidate that is being evaluated."""
        return model in self._versions or is_passing(model)

    def _client_of(self, identity: Identity, user: str | None) -> str:
        """A hash; empty where this client can't be told from others."""
        whose = [identity.tenant, identity.key_id, user if self._client == "user" else None]
        if self._client == "conversation" or whose[1:] == [None, None]:
            return ""
        return hashlib.sha256(json.dumps(whose).encode()).hexdigest()[:32]

    def _shadowed(self, route: Route, choice: Choice, client: str) -> Shadowed | None:
        """Of what the champion serves (the base model where there is none), a share by chance."""
        if route.shadow is None or route.shadow_id is None or choice.adapter != route.champion or route.is_off:
            return None
        if route.shadow not in self._loaded or random.random() >= route.shadow_share:
            return None
        return Shadowed(route.shadow_id, route.shadow, client)

    @contextmanager
    def _in_use(self, route: Route, choice: Choice, key: str, client: str) -> Iterator[Routed]:
        routed = Routed(route.base_model, choice.adapter, self._shadowed(route, choice, client))
        if choice.adapter is not None:
            self._streams[choice.adapter] += 1
        is_counted, failed = True, False
        try:
            yield routed
        except UpstreamError as error:
            is_counted = failed = _is_failure(error)
            raise
        except RequestError:
            is_counted = False
            raise
        finally:
            if choice.adapter is not None:
                self._streams[choice.adapter] -= 1
            if is_counted and route.canary_id is not None:
                self._count(route, choice, (key, client), routed, failed=failed)

    def _count(self, route: Route, choice: Choice, whose: tuple[str, str], routed: Routed, *, failed: bool) -> None:
        key, client = whose
        side: Side = "candidate" if choice.is_candidate else "champion"
        if route.canary_id is None or (side == "champion" and choice.adapter != route.champion):
            return  # the base stood in for what is not loaded: it is neither of the two
        if (route.canary_id, key) in self._seen:
            return
        self._seen[route.canary_id, key] = None
        while len(self._seen) > _MAX_SEEN:
            self._seen.popitem(last=False)
        halted = any(stream.was_halted for stream in routed.streams)
        failed = failed or any(stream.error is not None for stream in routed.streams)
        self._add(route.canary_id, side, client, Traffic(1, int(halted), int(failed)))

    def _add(self, canary_id: int, side: Side, client: str, traffic: Traffic) -> None:
        clients = self._counts.setdefault(canary_id, {}).setdefault(side, {})
        clients[client] = clients.get(client, Traffic()).plus(traffic)


def _is_failure(error: UpstreamError) -> bool:
    """Whether it is the engine's doing; a status below 500 is its answer to what the client asked."""
    return not isinstance(error, UpstreamStatusError) or error.status >= 500


def with_adapter(headers: list[tuple[bytes, bytes]], routed: Routed | None) -> list[tuple[bytes, bytes]]:
    """Response headers, with the version where there is one."""
    if routed is None or routed.adapter is None:
        return headers
    return [*headers, (b"x-steer-adapter", routed.adapter.encode())]
