"""Lets requests in, or does not: pure ASGI, in front of the application.

In this order: the path and method must be in the table (404, 405), the caller must have shown a key where one is asked
for (401), the key's role must be in the route's row (403), and key and tenant must have room (429). What goes on to the
application carries the identity and the tenant's rules, and no key of ours: the header is taken out here, so that
nothing behind can pass it to the engine, log it or echo it.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from proxy.access import keytext
from proxy.access.directory import CURRENT_S, Directory
from proxy.access.identity import LOCAL, UNKNOWN, Identity, forbidden, with_identity
from proxy.access.limits import Failures, Limiter
from proxy.access.model import DEFAULT, Key
from proxy.access.roles import Role, Route, RouteTable
from proxy.access.tenants import Rules
from proxy.addresses import address_of, is_of_this_machine
from proxy.errors import RequestError
from proxy.log.rows import now_us

logger = logging.getLogger("steer.access")

Required = Literal["auto", "always", "never"]

_IN_SCOPE = "steer.admission"


@dataclass(frozen=True, slots=True)
class Admission:
    """What the application needs to know of a request that was let in. `spend_tokens`: to be told what it used.
    `may_train`: whether the tenant's traffic may be looked at for training."""

    identity: Identity
    rules: Rules
    spend_tokens: Callable[[int], None]
    may_train: bool


def admission_of(scope: Mapping[str, Any]) -> Admission:
    """The admission of a request of a client's route."""
    admission = scope[_IN_SCOPE]
    assert isinstance(admission, Admission)
    return admission


class _Caller(NamedTuple):
    """Who calls; `key` None: nobody who showed one of ours."""

    identity: Identity
    key: Key | None


class Gate:
    """The gate of one process. `is_exposed`: it listens beyond loopback."""

    def __init__(
        self,
        table: RouteTable,
        directory: Directory,
        limiter: Limiter,
        failures: Failures,
        *,
        required: Required,
        is_exposed: bool,
        offline_s: float,
    ) -> None:
        self.table = table
        self._directory = directory
        self._limiter = limiter
        self._failures = failures
        self._required = required
        self._is_exposed = is_exposed
        self._offline_s = offline_s

    @property
    def asks(self) -> bool:
        """Whether keys are asked for. On loopback `auto` begins to once one was made, and does not end with it."""
        if self._required != "auto":
            return self._required == "always"
        return self._is_exposed or bool(self._directory.snapshot.keys)

    def around(self, app: ASGIApp) -> ASGIApp:
        """The application behind the gate. Raises RequestError for who is not let in."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            route = self._route(scope["method"], scope["path"])
            caller = await self._caller(scope, route)
            if route.allowed is not None and (caller.key is not None or not route.has_own_token):
                self._check_role(caller, route.allowed)
            tenant = self._directory.snapshot.tenants.get(caller.identity.tenant, DEFAULT)
            limited = self._limiter.admitted(caller.key, tenant) if route.is_limited else nullcontext(_spend_nothing)
            with limited as spend_tokens:
                passed = with_identity(_without_our_key(scope), caller.identity)
                if route.is_limited:
                    passed[_IN_SCOPE] = Admission(
                        caller.identity, self._rules(tenant.name), spend_tokens, tenant.may_train
                    )
                await app(passed, receive, send)

        return guarded

    def _route(self, method: str, path: str) -> Route:
        routes = self.table.at(path)
        if not routes:
            raise RequestError(404, f"no such path: {path}. This proxy serves {self.table.served}", code="not_found")
        route = self.table.find(method, path)
        if route is None:
            allowed = ", ".join(sorted(routes))
            raise RequestError(
                405, f"{path} takes {allowed}, not {method}", code="method_not_allowed", headers={"allow": allowed}
            )
        return route

    async def _caller(self, scope: Scope, route: Route) -> _Caller:
        if route.allowed is None:
            return _Caller(UNKNOWN, None)
        is_asked = self.asks
        shown = _bearers(scope)
        if is_asked and (not route.has_own_token or any(keytext.looks_like_ours(text) for text in shown)):
            key = await self._authenticate(shown, address_of(scope))
            self._directory.used(key)
            return _Caller(key.identity, key)
        is_local = not is_asked and not self._is_exposed and is_of_this_machine(scope)
        return _Caller(LOCAL if is_local else UNKNOWN, None)

    async def _authenticate(self, shown: list[str], address: str) -> Key:
        if len(shown) != 1 or not shown[0]:
            raise _unauthorized("show one key: `Authorization: Bearer sk-steer-…`; the proxy's operator hands them out")
        found = await self._find(shown[0], address)
        if found is None or (state := found.state(now_us())) != "active":
            if self._failures.count(address):
                logger.warning("too many wrong keys from %s: answered with 429 for now", address)
            why = "not known" if found is None else state
            raise _unauthorized(f"this key is {why}: ask the proxy's operator for another")
        if self._directory.age_s > CURRENT_S + self._offline_s:
            raise _unavailable("keys can't be looked up, for longer than access.offline_s allows")
        return found

    async def _find(self, text: str, address: str) -> Key | None:
        """The key in the snapshot, or else in the database: a wrong secret and an unknown id take the same way."""
        key_id = keytext.id_of(text)
        found = None if key_id is None else self._known(key_id, text)
        if found is not None:
            return found
        self._failures.check(address)
        if key_id is None:
            return None
        await self._directory.look_again()
        found = self._known(key_id, text)
        if found is None and not self._directory.is_current:
            raise _unavailable("keys can't be looked up at the moment, and yours is not among those known here")
        return found

    def _known(self, key_id: str, text: str) -> Key | None:
        key = self._directory.snapshot.keys.get(key_id)
        return key if keytext.is_same(text, None if key is None else key.digest) else None

    def _check_role(self, caller: _Caller, allowed: frozenset[Role]) -> None:
        if caller.identity.role in allowed:
            return
        if caller.key is None:
            raise RequestError(
                403,
                "without a key this is for callers on this machine alone: make one with `steer keys create`, then set "
                'access.required = "auto"',
                code="forbidden",
            )
        raise forbidden(caller.identity.role, allowed)

    def _rules(self, tenant: str) -> Rules:
        rules = self._directory.snapshot.rules.get(tenant)
        if rules is None:
            raise RequestError(
                503, "this tenant's policy can't be used by this proxy; its log says why", code="tenant_policy_unusable"
            )
        return rules


def _spend_nothing(_tokens: int) -> None:
    pass


def _bearers(scope: Scope) -> list[str]:
    """What follows "Bearer" in each Authorization header; empty text for another scheme."""
    values = [value.decode("latin-1").strip() for name, value in scope["headers"] if name.lower() == b"authorization"]
    parts = [value.partition(" ") for value in values]
    return [text.strip() if scheme.lower() == "bearer" else "" for scheme, _, text in parts]


def _without_our_key(scope: Scope) -> Scope:
    """The request without any Authorization that holds a key of ours, valid or not. The engine's own stay."""
    mark = keytext.PREFIX.encode()
    kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"authorization" or mark not in value]
    return {**scope, "headers": kept}


def _unauthorized(message: str) -> RequestError:
    return RequestError(401, message, code="invalid_api_key", headers={"www-authenticate": "Bearer"})


def _unavailable(message: str) -> RequestError:
    return RequestError(503, message, code="keys_unavailable", headers={"retry-after": "5"})
