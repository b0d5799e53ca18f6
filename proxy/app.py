"""The ASGI application, and the composition root that makes it: everything is built here and passed down.

Routes: POST /v1/chat/completions, GET /v1/models, GET /healthz (the process lives), GET /readyz (it can serve), GET
/metrics (unless turned off). All else is 404: a path that is not known can't be watched.
"""

import json
import logging
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import chain, count
from typing import Any

import anyio
from starlette.types import ASGIApp, Receive, Scope, Send

from detector.artifact import load_artifact
from detector.scoring import ScoringQueue
from proxy.access.gate import admission_of
from proxy.access.opening import open_gate
from proxy.access.tenants import make_rules
from proxy.adapters.opening import open_routing
from proxy.adapters.router import Routed
from proxy.capabilities import Prober
from proxy.chat import Exchange, Services, complete_chat, now, parse_scope, stream_chat
from proxy.errors import RequestError, UpstreamError, UpstreamStatusError
from proxy.guard import ChatRequest, Limits, check_chat_request
from proxy.judge import Scorer
from proxy.log.setup import open_log
from proxy.measuring import make_metrics, make_page
from proxy.meter import MeteredLog
from proxy.responses import send_error, send_json
from proxy.review import api as review_api
from proxy.review.opening import open_review
from proxy.rules import make_limits
from proxy.settings import Settings
from proxy.shadow import api as adapters_api
from proxy.shadow.opening import open_adapters_api, open_shadow
from proxy.think import ThinkMarkers
from proxy.tokens import load_tokenizer
from proxy.triggers import api as triggers_api
from proxy.triggers.opening import open_triggers
from proxy.triggers.wording import Wording
from proxy.upstream import UpstreamClient

logger = logging.getLogger("steer.proxy")

_REQUEST_ID = "steer.request_id"

_NOT_STARTED = RequestError(
    503, "the proxy has not started: the server must run its lifespan (uvicorn --lifespan on)", code="not_started"
)


class Proxy:
    """The application around its services. One instance per process."""

    def __init__(self, services: Services, limits: Limits, max_body_bytes: int) -> None:
        self._services = services
        self._metrics = services.metrics
        self._table = services.gate.table
        self._guarded = services.gate.around(self._route)
        self._limits = limits
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request."""
        request_id = f"req-{uuid.uuid4().hex}"
        tracked = _TrackedSend(send)
        try:
            await self._guarded({**scope, _REQUEST_ID: request_id}, receive, tracked)
        except (RequestError, UpstreamError) as error:
            if isinstance(error, UpstreamError):
                self._metrics.upstream_errors.labels("answer").inc()
            if isinstance(error, UpstreamError) and not isinstance(error, UpstreamStatusError):
                logger.warning("request %s: %s", request_id, error)
            await self._fail(tracked, error, request_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            internal = RequestError(
                500, "the proxy failed to serve this request; its log says why", code="internal_error"
            )
            await self._fail(tracked, internal, request_id)
        finally:
            route = self._table.label(scope["path"])
            self._metrics.requests.labels(route, tracked.status or "none").inc()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the gate has let in; every path here is in its table."""
        request_id = scope[_REQUEST_ID]
        match scope["path"]:
            case "/healthz":
                await send_json(send, 200, b'{"status":"ok"}')
            case "/readyz":
                await self._ready(send)
            case "/v1/models":
                body = await self._services.client.get("/v1/models", parse_scope(scope))
                await send_json(send, 200, self._services.router.models(body), {"x-request-id": request_id})
            case "/metrics" if self._services.metrics_page is not None:
                await self._services.metrics_page.answer(scope, send)
            case "/v1/chat/completions":
                with self._metrics.in_flight.track_inprogress():
                    await self._chat(scope, receive, send, request_id)
            case path if path.startswith(triggers_api.PREFIXES):
                await self._services.triggers.api.answer(scope, receive, send, request_id)
            case path if path.startswith(adapters_api.PREFIX):
                await self._services.adapters_api.answer(scope, receive, send, request_id)
            case path if path.startswith(review_api.PREFIX):
                await self._services.review.api.answer(scope, receive, send, request_id)
            case path:
                raise AssertionError(f"{path} is in the table of routes, and nothing serves it")

    async def _ready(self, send: Send) -> None:
        """Ready: the engine answers with a model list, so a request has somewhere to go. Anybody may ask: where keys
        are asked for, no more than that is said."""
        is_terse = self._services.gate.asks
        try:
            with anyio.fail_after(5):
                models = await self._services.prober.models({})
        except (UpstreamError, TimeoutError) as error:
            reason = str(error) or "the upstream did not answer within 5 s"
            told = {} if is_terse else {"reason": reason}
            await send_json(send, 503, json.dumps({"status": "not ready", **told}).encode())
            return
        shown = {} if is_terse else {"models": sorted(models)}
        await send_json(send, 200, json.dumps({"status": "ready", **shown}).encode())

    async def _chat(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        started = now()
        body = await _read_body(scope, receive, self._max_body_bytes)
        try:
            parsed = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"the request body is not valid JSON: {error}", code="invalid_json") from error
        admission, headers = admission_of(scope), parse_scope(scope)
        # Where a candidate fails the champion is asked anew: what the log counts of the two is told apart by their ids.
        ids = chain([request_id], (f"{request_id}-{number}" for number in count(2)))

        async def serve(request: ChatRequest, routed: Routed) -> None:
            exchange = Exchange(
                services=self._services,
                admission=admission,
                request=request,
                request_id=next(ids),
                headers=headers,
                capabilities=await self._services.prober.of(str(request.body["model"]), headers),
                started=started,
                seed=request.seed if request.seed is not None else secrets.randbits(63),
                routed=routed,
                selection=self._services.triggers.selector.select(admission.rules, request.messages),
            )
            try:
                await (stream_chat if request.stream else complete_chat)(exchange, receive, send)
            finally:
                self._services.copier.request_is_over(exchange, len(body))

        request = check_chat_request(parsed, self._limits)
        await self._services.router.serve(request, admission.identity, serve)

    async def _fail(self, send: "_TrackedSend", error: RequestError | UpstreamError, request_id: str) -> None:
        """An HTTP error before the first byte; after it, nothing but cutting the connection is honest."""
        if not send.has_started:
            headers = {"x-request-id": request_id}
            if isinstance(error, RequestError):
                headers |= error.headers
            await send_error(send, error, headers)
            return
        raise error


class _TrackedSend:
    """A `send` that remembers whether the response has begun, and with which status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_started = False
        self.status: str | None = None

    async def __call__(self, message: Any) -> None:
        self.has_started = True
        if message["type"] == "http.response.start":
            self.status = str(message["status"])
        await self._send(message)


async def _read_body(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, at most `limit` bytes. Raises RequestError 413 beyond, 400 when the client leaves."""
    too_large = RequestError(
        413,
        f"the request body is larger than {limit} bytes; raise server.max_body_bytes if that is meant",
        code="too_large",
    )
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > limit:
            raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError(400, "the client left before its request was complete", code="client_left")
        size += len(message.get("body", b""))
        if size > limit:
            raise too_large
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


@asynccontextmanager
async def open_services(settings: Settings, scorer: Scorer | None = None) -> AsyncIterator[Services]:
    """Everything that requests share, opened in order and closed in reverse. `scorer` replaces the artifact's queue.

    Raises ConfigError, ArtifactError, LogError when something can't be used: the process must not start half-guarded.
    """
    markers = ThinkMarkers(settings.upstream.think_start, settings.upstream.think_end)
    tokenizer = None if settings.upstream.tokenizer is None else load_tokenizer(settings.upstream.tokenizer)
    artifact = load_artifact(settings.detector.artifact) if scorer is None else None
    upstream = settings.upstream
    async with AsyncExitStack() as stack:
        log = open_log(settings.log)
        stack.push_async_callback(log.close)
        if scorer is None:
            assert artifact is not None, "loaded above, in the same case"
            detector = settings.detector
            scorer = await stack.enter_async_context(
                ScoringQueue(artifact, workers=detector.workers, max_pending=detector.max_pending)
            )
        client = await stack.enter_async_context(
            UpstreamClient(
                upstream.url,
                api_key=None if upstream.api_key is None else upstream.api_key.get_secret_value(),
                connect_timeout_s=upstream.connect_timeout_s,
                read_timeout_s=upstream.read_timeout_s,
                max_connections=upstream.max_connections,
            )
        )
        gate = stack.enter_context(open_gate(settings, artifact))
        policy = make_rules(settings, artifact, {}).policy
        metrics = make_metrics(settings, policy, artifact)
        review = await stack.enter_async_context(open_review(settings, log, policy.threshold, metrics.samples))
        wording = Wording((markers.start, markers.end), policy.threshold, tokenizer)
        triggers = await stack.enter_async_context(open_triggers(settings, scorer, wording))
        prober = Prober(client, markers, tokenizer)
        router = await stack.enter_async_context(open_routing(settings, client, prober))
        yield Services(
            client=client,
            prober=prober,
            router=router,
            copier=await stack.enter_async_context(open_shadow(settings, router, metrics)),
            adapters_api=stack.enter_context(open_adapters_api(settings)),
            scorer=scorer,
            log=MeteredLog(log, metrics),
            note=log.note,
            gate=gate,
            markers=markers,
            detector_hash="external" if artifact is None else artifact.digest,
            reveals_rejected=settings.policy.reveal_rejected,
            metrics=metrics,
            metrics_page=make_page(settings, metrics, log),
            review=review,
            triggers=triggers,
        )


def create_app(
    settings: Settings, scorer: Scorer | None = None, on_failed_start: Callable[[Exception], None] | None = None
) -> ASGIApp:
    """The application; its services live as long as its lifespan.

    `scorer` replaces the shipped detector; `on_failed_start` is told why the services could not be opened.
    """
    proxy: list[Proxy] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            try:
                await _lifespan(settings, scorer, proxy, receive, send)
            except Exception as error:
                if on_failed_start is not None and not proxy:
                    on_failed_start(error)
                raise
        elif scope["type"] == "http":
            if proxy:
                await proxy[0](scope, receive, send)
            else:
                await send_error(send, _NOT_STARTED)
        else:
            await send({"type": "websocket.close", "code": 1000})

    return app


async def _lifespan(
    settings: Settings, scorer: Scorer | None, proxy: list[Proxy], receive: Receive, send: Send
) -> None:
    await receive()
    try:
        async with open_services(settings, scorer) as services:
            proxy.append(Proxy(services, make_limits(settings), settings.server.max_body_bytes))
            await send({"type": "lifespan.startup.complete"})
            await receive()
    except BaseException as error:
        kind = "shutdown" if proxy else "startup"
        await send({"type": f"lifespan.{kind}.failed", "message": str(error)})
        raise
    await send({"type": "lifespan.shutdown.complete"})
