"""The ASGI application of the demo: the playground's few routes in front of the proxy's own application.

    /                              the playground
    /static/…                      its script and style
    /unsteered/v1/chat/completions straight to the toy model, past the proxy: the left side of the playground
    /demo/examples                 prompts, and what the playground must know about the model
    /demo/records?request_id=…     records and pairs of one request
    anything else                  the proxy, as `steer serve` runs it

Rules: answers of the demo carry a strict content security policy; a request must name this machine as its host, so
that no foreign page can read the log through a rebound name. Only the demo has these routes.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from proxy.addresses import host_of, is_loopback
from proxy.demo.evidence import evidence_of
from proxy.demo.examples import MAX_TOKENS, TEMPERATURE, Example
from proxy.demo.unsteered import unsteered
from proxy.errors import RequestError, UpstreamError
from proxy.log import LogReader
from proxy.log.errors import LogError
from proxy.responses import send_error
from proxy.upstream import UpstreamClient

_STATIC = Path(__file__).with_name("static")
_SECURITY_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class DemoApp:
    """`proxy` is the proxy's application; `log_url` its log; `engine` talks to the toy model (opened by the caller)."""

    def __init__(
        self, proxy: ASGIApp, engine: UpstreamClient, log_url: str, model: str, examples: Sequence[Example]
    ) -> None:
        self.failure: str | None = None
        self._proxy = proxy
        self._engine = engine
        self._log_url = log_url
        self.examples = tuple(examples)
        self._model = model
        # A fixed table: no path of a request ever becomes a path of a file.
        self._files = {f"/static/{file.name}": file for file in _STATIC.iterdir()} | {"/": _STATIC / "index.html"}
        self._log: LogReader | None = None
        self._opening = anyio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One HTTP request, or the proxy's own lifespan."""
        if scope["type"] == "lifespan":
            await self._proxy(scope, receive, partial(self._note_failure, send))
            await self._close_log()
            return
        if scope["type"] != "http" or not _is_of_demo(scope["path"]):
            await self._proxy(scope, receive, send)
            return
        guarded = partial(_send_guarded, send)
        try:
            _check_host(scope)
            await self._route(scope, receive, guarded)
        except (RequestError, UpstreamError) as error:
            await send_error(guarded, error)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        _check_method(path, scope["method"], "POST" if path.startswith("/unsteered") else "GET")
        match path:
            case _ if path in self._files:
                await FileResponse(self._files[path], headers={"cache-control": "no-cache"})(scope, receive, send)
            case "/demo/examples":
                await JSONResponse(self._about())(scope, receive, send)
            case "/demo/records":
                await (await self._records(scope))(scope, receive, send)
            case "/unsteered/v1/chat/completions":
                await unsteered(self._engine, receive, send)
            case _:
                raise RequestError(404, f"no such path: {path}", code="not_found")

    def _about(self) -> dict[str, Any]:
        return {
            "model": self._model,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "examples": [example.model_dump() for example in self.examples],
        }

    async def _records(self, scope: Scope) -> Response:
        query = dict(pair.partition("=")[::2] for pair in scope["query_string"].decode("latin-1").split("&"))
        request_id = query.get("request_id", "")
        if not request_id:
            raise RequestError(400, "name a request: /demo/records?request_id=…", code="missing_request_id")
        try:
            found = await evidence_of(await self._open_log(), request_id)
        except LogError as error:
            raise RequestError(503, f"the intervention log cannot be read: {error}", code="log_unavailable") from error
        return JSONResponse(found, headers={"cache-control": "no-store"})

    async def _open_log(self) -> LogReader:
        async with self._opening:
            if self._log is None:
                self._log = await anyio.to_thread.run_sync(LogReader.open, self._log_url)
            return self._log

    async def _close_log(self) -> None:
        if self._log is not None:
            await self._log.close()
            self._log = None

    async def _note_failure(self, send: Send, message: Message) -> None:
        if message["type"] == "lifespan.startup.failed":
            self.failure = message["message"]
        if message["type"] == "lifespan.shutdown.complete":
            await self._close_log()
        await send(message)


def _is_of_demo(path: str) -> bool:
    return path == "/" or path.startswith(("/static/", "/demo/", "/unsteered/"))


def _check_method(path: str, method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise RequestError(405, f"{path} takes {allowed}, not {method}", code="method_not_allowed")


def _check_host(scope: Scope) -> None:
    if not is_loopback(host_of(scope)):
        raise RequestError(421, "the demo answers on this machine alone: open http://127.0.0.1", code="wrong_host")


async def _send_guarded(send: Send, message: Message) -> None:
    if message["type"] == "http.response.start":
        message = {**message, "headers": [*message.get("headers", []), *_SECURITY_HEADERS]}
    await send(message)
