"""The review API: JSON under /steer/v1/review/. Errors in the proxy's own form.

A subject's version is its ETag. Whoever speaks of a subject names the version that they have seen (`If-Match`, or
`version` in the body): 428 without one, 412 where somebody else has spoken since. What one may ask stands in
`proxy.access.roles`; keys of a tenant other than `default` see that tenant alone.
"""

import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from proxy.access.identity import Identity, identity_of
from proxy.errors import RequestError
from proxy.log.errors import LogError
from proxy.responses import send_json
from proxy.review.audit import read_entries
from proxy.review.bodies import SayingBody, SettlingBody, VerdictsBody, page_json
from proxy.review.decisions import Saying
from proxy.review.desk import ReviewDesk, Shown, actor_of, record_json, scope_of
from proxy.review.errors import BadInput, ReviewError, StaleVersion, UnknownSubject
from proxy.review.samples import confirmed_misses
from proxy.review.statistics import agreements, sample_counts
from proxy.review.triggers import Settling, proposals, settle_proposal
from proxy.review.verdicts import import_verdicts

PREFIX = "/steer/v1/review/"
# Notes and verdicts are short; 500 verdicts take some 200 kB.
_MAX_BODY = 1 << 20
# Of numbers in addresses and headers: Python refuses to read those of thousands.
_MAX_DIGITS = 18

Body = TypeVar("Body", bound=BaseModel)
Answer = tuple[dict[str, Any], dict[str, str]]


class ReviewApi:
    """Serves what the gate has let in."""

    def __init__(self, desk: ReviewDesk) -> None:
        self._desk = desk
        self._routes: dict[tuple[str, str], Callable[[Request, Identity, str], Awaitable[Answer]]] = {
            ("GET", "queue"): self._queue,
            ("GET", "items"): self._show,
            ("POST", "items"): self._say,
            ("GET", "agreement"): self._agreement,
            ("GET", "audit"): self._audit,
            ("GET", "triggers"): self._proposals,
            ("POST", "triggers"): self._settle,
            ("GET", "misses"): self._misses,
            ("GET", "unjudged"): self._unjudged,
            ("POST", "verdicts"): self._verdicts,
        }

    async def answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        """One request of a path below `PREFIX`. Raises RequestError."""
        name, _, rest = str(scope["path"]).removeprefix(PREFIX).partition("/")
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        try:
            given, headers = await self._routes[method, name](Request(scope, receive), identity_of(scope), rest)
        except UnknownSubject as error:
            raise RequestError(404, str(error), code="not_found") from error
        except StaleVersion as error:
            raise RequestError(412, str(error), "version", code="stale_version") from error
        except ReviewError as error:
            raise RequestError(400, str(error), code="invalid_review") from error
        except LogError as error:
            raise RequestError(503, str(error), code="log_unavailable") from error
        body = json.dumps(given, ensure_ascii=True).encode()
        await send_json(send, 200, body, {"x-request-id": request_id, "cache-control": "no-store", **headers})

    async def _queue(self, request: Request, who: Identity, _: str) -> Answer:
        kind = {None: None, "intervention": "intervention", "miss": "sample"}
        asked = request.query_params.get("kind")
        if asked not in kind:
            raise BadInput("kind: say intervention or miss, or leave it out")
        page = await self._desk.queue(
            who,
            limit=_number(request, "limit", 20),
            cursor=request.query_params.get("cursor"),
            kind=kind[asked],  # type: ignore[arg-type]  # of the two words
            tenant=request.query_params.get("tenant"),
        )
        return page_json(page), {}

    async def _show(self, _: Request, who: Identity, subject_id: str) -> Answer:
        shown = await self._desk.show(who, subject_id)
        return shown_json(shown), {"etag": f'"{shown.item.version}"'}

    async def _say(self, request: Request, who: Identity, subject_id: str) -> Answer:
        body = await _read(request, SayingBody)
        version = _version(request) if body.version is None else body.version
        saying = Saying(
            subject_id, version, body.decision, body.final, body.segment, body.note, body.trigger, body.trigger_kind
        )
        said = await self._desk.say(who, saying)
        return asdict(said) | {"id": subject_id}, {"etag": f'"{said.version}"'}

    async def _agreement(self, request: Request, who: Identity, _: str) -> Answer:
        since = request.query_params.get("since")
        tenant, moment = scope_of(who), None if since is None else _moment(since)
        found = await self._desk.store.read(lambda connection: agreements(connection, moment, tenant))
        counts = await self._desk.store.read(lambda connection: sample_counts(connection, tenant))
        pairs = [asdict(pair) | {"share": pair.share} for pair in found.pairs]
        return asdict(found) | {"pairs": pairs, "samples": counts}, {}

    async def _audit(self, request: Request, who: Identity, _: str) -> Answer:
        limit, before = _number(request, "limit", 100), _number(request, "before", 0) or None
        subject, actor = request.query_params.get("subject"), request.query_params.get("actor")
        tenant = scope_of(who)
        entries = await self._desk.store.read(
            lambda connection: read_entries(
                connection, subject=subject, actor=actor, tenant=tenant, before_seq=before, limit=limit
            )
        )
        told = [asdict(entry) | {"at": entry.at.isoformat()} for entry in entries]
        return {"entries": told, "next_before": entries[-1].seq if len(entries) == limit else None}, {}

    async def _proposals(self, request: Request, who: Identity, _: str) -> Answer:
        state = request.query_params.get("state")
        if state not in (None, "proposed", "approved", "rejected"):
            raise BadInput("state: say proposed, approved or rejected")
        found = await self._desk.store.read(
            lambda connection: proposals(connection, self._desk.texts, state=state, tenant=scope_of(who))  # type: ignore[arg-type]
        )
        return {"triggers": [asdict(item) | {"created_at": item.created_at.isoformat()} for item in found]}, {}

    async def _settle(self, request: Request, who: Identity, proposal_id: str) -> Answer:
        body = await _read(request, SettlingBody)
        settling = Settling(body.state == "approved", body.trigger_id, body.kind)
        await self._desk.store.write(
            lambda connection: settle_proposal(
                connection, self._desk.texts, actor_of(who), proposal_id, settling, scope_of(who)
            )
        )
        return {"id": proposal_id, "state": body.state}, {}

    async def _misses(self, request: Request, who: Identity, _: str) -> Answer:
        after, limit = request.query_params.get("after"), _number(request, "limit", 50)
        records, last = await self._desk.store.read(
            lambda connection: confirmed_misses(connection, self._desk.texts, after=after, limit=limit)
        )
        seen = [record for record in records if scope_of(who) in (None, record.tenant)]
        return {"records": [record_json(record) for record in seen], "next_after": last}, {}

    async def _unjudged(self, request: Request, who: Identity, _: str) -> Answer:
        judge, kind = request.query_params.get("judge"), request.query_params.get("kind", "sample")
        if not judge or kind not in ("sample", "intervention"):
            raise BadInput("judge: name the judge; kind: say sample or intervention")
        after, limit = request.query_params.get("after"), _number(request, "limit", 50)
        traces, last = await self._desk.unjudged(who, kind, judge, after=after, limit=limit)  # type: ignore[arg-type]
        return {"traces": [trace.model_dump(mode="json") for trace in traces], "next_after": last}, {}

    async def _verdicts(self, request: Request, who: Identity, _: str) -> Answer:
        body = await _read(request, VerdictsBody)
        found = await self._desk.store.write(
            lambda connection: import_verdicts(connection, actor_of(who), body.verdicts, scope_of(who))
        )
        return asdict(found), {}


def shown_json(shown: Shown) -> dict[str, Any]:
    """An item with its text, as JSON."""
    told = shown.item.shown()
    told["record"] = None if shown.record is None else record_json(shown.record)
    told["sample"] = None
    if shown.sample is not None:
        told["sample"] = shown.sample.model_dump(mode="json") | {"likeliest": shown.sample.likeliest}
    return told


async def _read(request: Request, kind: type[Body]) -> Body:
    raw = b""
    async for part in request.stream():
        raw += part
        if len(raw) > _MAX_BODY:
            raise RequestError(413, f"the body is larger than {_MAX_BODY} bytes: send it in parts", code="too_large")
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or None
        raise RequestError(400, f"{where or 'body'}: {first['msg']}", where, code="invalid_body") from None


def _version(request: Request) -> int:
    given = request.headers.get("if-match", "").strip().removeprefix("W/").strip('"')
    if not given.isdecimal() or len(given) > _MAX_DIGITS:
        raise RequestError(
            428, "say which version you have seen: `If-Match`, or `version`", "version", code="version_missing"
        )
    return int(given)


def _moment(given: str) -> datetime:
    try:
        return datetime.fromisoformat(given)
    except ValueError:
        raise BadInput("since: give a moment as 2026-01-31T12:00:00+00:00") from None


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name)
    if given is None:
        return default
    is_number = given.isdecimal() and len(given) <= _MAX_DIGITS
    if not is_number or not 1 <= int(given) <= 1_000_000_000 or (name == "limit" and int(given) > 500):
        raise BadInput(f"{name}: give a whole number" + (" from 1 to 500" if name == "limit" else ""))
    return int(given)
