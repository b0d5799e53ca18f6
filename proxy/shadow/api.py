"""The API of versions: JSON under /steer/v1/adapters. What one may ask stands in `proxy.access.roles`.

Versions are all tenants', so keys of a tenant other than `default` are refused. No text of users is shown here.
"""

import json
from typing import Any

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from proxy.access.identity import DEFAULT_TENANT, identity_of
from proxy.adapters import shadowing
from proxy.adapters.errors import NotAllowedNow, UnknownAdapter
from proxy.adapters.registry import AdapterRegistry
from proxy.adapters.rows import read_adapter
from proxy.errors import RequestError
from proxy.log.errors import LogError
from proxy.responses import send_json
from proxy.shadow.compare import read_comparison

PREFIX = "/steer/v1/adapters/"
_MAX_BODY = 1 << 14
_SHADOW = "/shadow"


class ShadowBody(BaseModel):
    """POST /steer/v1/adapters/{id}/shadow. A share of 0 ends it."""

    model_config = ConfigDict(extra="forbid")

    share: float = Field(ge=0, le=1, allow_inf_nan=False)
    reason: str | None = Field(None, max_length=1000)


class AdaptersApi:
    """Serves what the gate has let in."""

    def __init__(self, registry: AdapterRegistry) -> None:
        self._registry = registry

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """One request. Raises RequestError."""
        request, who = Request(scope, receive), identity_of(scope)
        if who.tenant != DEFAULT_TENANT:
            raise RequestError(
                403, f"versions are all tenants': this needs a key of tenant {DEFAULT_TENANT}", code="forbidden"
            )
        id = request.url.path.removeprefix(PREFIX).removesuffix(_SHADOW)
        try:
            if request.method == "POST":
                body = await _read(request)
                await anyio.to_thread.run_sync(
                    self._registry.change, lambda c: set_share(c, id, body.share, who.actor, body.reason)
                )
            told = await anyio.to_thread.run_sync(self._registry.read, lambda c: _shown(c, id))
        except UnknownAdapter as error:
            raise RequestError(404, str(error), code="not_found") from error
        except NotAllowedNow as error:
            raise RequestError(409, str(error), code="not_allowed_now") from error
        except LogError as error:
            raise RequestError(503, str(error), code="log_unavailable") from error
        headers = {"x-request-id": request_id, "cache-control": "no-store"}
        await send_json(send, 200, json.dumps(told).encode(), headers)


def set_share(connection: Connection, id: str, share: float, actor: str, reason: str | None) -> None:
    """A version into shadow, or out of it with 0. Raises NotAllowedNow, UnknownAdapter."""
    if share:
        shadowing.start_shadow(connection, id, share, actor, reason)
    elif not shadowing.end_shadow(connection, id, actor, reason or "asked for"):
        raise NotAllowedNow(f"{id} is not in shadow: there is nothing to end")


def _shown(connection: Connection, id: str) -> dict[str, Any]:
    adapter, comparison = read_adapter(connection, id), read_comparison(connection, id)
    return {
        "id": adapter.id, "alias": adapter.alias, "base_model": adapter.base_model, "state": str(adapter.state),
        "reason": adapter.reason, "has_passed_gate": adapter.has_passed,
        "shadow": None if comparison is None else comparison.shown(),
    }  # fmt: skip


async def _read(request: Request) -> ShadowBody:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _MAX_BODY:
            raise RequestError(413, f"the body is larger than {_MAX_BODY} bytes", code="too_large")
    try:
        return ShadowBody.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or None
        raise RequestError(400, f"{where or 'body'}: {first['msg']}", where, code="invalid_body") from None
