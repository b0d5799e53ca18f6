"""The API of triggers: JSON under /steer/v1/triggers and /steer/v1/trigger-snapshot. Errors in the proxy's own form.

What one may ask stands in `proxy.access.roles`: a reviewer may propose, an operator approves. Triggers are everybody's,
so keys of a tenant other than `default` are refused.
"""

import json
from typing import Any, Literal, TypeVar

import anyio.to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from detector.errors import DetectorError
from proxy.access.identity import DEFAULT_TENANT, Identity, identity_of
from proxy.adapters.registry import AdapterRegistry
from proxy.errors import RequestError
from proxy.judge import Scorer
from proxy.log.errors import LogError
from proxy.responses import send_json
from proxy.review.desk import actor_of
from proxy.triggers.changes import Proposal, propose
from proxy.triggers.errors import TriggerError, UnknownTrigger, WrongState
from proxy.triggers.rows import STATES, read_trigger, read_triggers
from proxy.triggers.snapshots import Making, read_table, refresh, settle_and_publish
from proxy.triggers.wording import Wording, check_with_detector
from steer.triggers import Kind, Trigger

TRIGGERS, SNAPSHOT = "/steer/v1/triggers", "/steer/v1/trigger-snapshot"
PREFIXES = (TRIGGERS, SNAPSHOT)
_MAX_BODY = 1 << 16
# Of a version in an address: Python refuses to read numbers of thousands of digits.
_MAX_DIGITS = 9

Body = TypeVar("Body", bound=BaseModel)


class ProposalBody(BaseModel):
    """POST /steer/v1/triggers."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=64, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    kind: Kind
    text: str = Field(min_length=8, max_length=500)


class SettlingBody(BaseModel):
    """POST /steer/v1/triggers/{id}."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["approved", "rejected", "retired"]
    reason: str | None = Field(None, max_length=1000)


class TriggersApi:
    """Serves what the gate has let in."""

    def __init__(self, registry: AdapterRegistry, making: Making, wording: Wording, scorer: Scorer) -> None:
        self._registry = registry
        self._making = making
        self._wording = wording
        self._scorer = scorer

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """One request. Raises RequestError."""
        request, who = Request(scope, receive), identity_of(scope)
        if who.tenant != DEFAULT_TENANT:
            raise RequestError(
                403, f"triggers are all tenants': this needs a key of tenant {DEFAULT_TENANT}", code="forbidden"
            )
        try:
            given = await self._answer(request, who)
        except UnknownTrigger as error:
            raise RequestError(404, str(error), code="not_found") from error
        except WrongState as error:
            raise RequestError(409, str(error), code="wrong_state") from error
        except TriggerError as error:
            raise RequestError(400, str(error), code="invalid_trigger") from error
        except DetectorError as error:
            raise RequestError(503, f"the detector can't judge it now: {error}", code="detector_failed") from error
        except LogError as error:
            raise RequestError(503, str(error), code="log_unavailable") from error
        body = json.dumps(given, ensure_ascii=True).encode()
        await send_json(send, 200, body, {"x-request-id": request_id, "cache-control": "no-store"})

    async def _answer(self, request: Request, who: Identity) -> dict[str, Any]:
        path, is_read = request.url.path, request.method in ("GET", "HEAD")
        if path == SNAPSHOT:
            return await (self._snapshot(request) if is_read else self._refresh(who))
        id = path.removeprefix(TRIGGERS).removeprefix("/")
        if not id:
            return await (self._list(request) if is_read else self._propose(request, who))
        return await (self._show(id) if is_read else self._settle(request, who, id))

    async def _list(self, request: Request) -> dict[str, Any]:
        state = request.query_params.get("state")
        if state is not None and state not in STATES:
            raise RequestError(400, f"state: say {', '.join(STATES)}, or leave it out", "state", code="invalid_trigger")
        rows = await anyio.to_thread.run_sync(self._registry.read, lambda c: read_triggers(c, state))
        return {"triggers": [row.shown() for row in rows]}

    async def _show(self, id: str) -> dict[str, Any]:
        row = await anyio.to_thread.run_sync(self._registry.read, lambda c: read_trigger(c, id))
        return row.shown()

    async def _propose(self, request: Request, who: Identity) -> dict[str, Any]:
        body = await _read(request, ProposalBody)
        trigger = Trigger(id=body.id, kind=body.kind, text=body.text)
        await check_with_detector(trigger, self._wording, self._scorer)
        made = [Proposal(trigger)]
        await anyio.to_thread.run_sync(self._registry.change, lambda c: propose(c, actor_of(who), made))
        return await self._show(trigger.id)

    async def _settle(self, request: Request, who: Identity, id: str) -> dict[str, Any]:
        body = await _read(request, SettlingBody)
        row = await anyio.to_thread.run_sync(
            self._registry.change,
            lambda c: settle_and_publish(c, actor_of(who), id, body.state, body.reason, self._making),
        )
        return row.shown()

    async def _snapshot(self, request: Request) -> dict[str, Any]:
        given = request.query_params.get("version")
        if given is not None and not (given.isdecimal() and len(given) <= _MAX_DIGITS):
            raise RequestError(400, "version: give a whole number", "version", code="invalid_trigger")
        version = None if given is None else int(given)
        table = await anyio.to_thread.run_sync(self._registry.read, lambda c: read_table(c, version))
        return {"sha256": table.sha256, **table.model_dump(mode="json")}

    async def _refresh(self, who: Identity) -> dict[str, Any]:
        table, is_new = await anyio.to_thread.run_sync(
            self._registry.change, lambda c: refresh(c, self._making, who.actor)
        )
        return {"version": table.version, "sha256": table.sha256, "is_new": is_new}


async def _read(request: Request, kind: type[Body]) -> Body:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _MAX_BODY:
            raise RequestError(413, f"the body is larger than {_MAX_BODY} bytes", code="too_large")
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or None
        raise RequestError(400, f"{where or 'body'}: {first['msg']}", where, code="invalid_body") from None
