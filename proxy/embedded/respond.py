"""Answers that end their generation when the client leaves: event streams and whole bodies."""

import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from proxy.embedded.errors import EmbeddedError

Produce = Callable[[Callable[[dict[str, Any]], Awaitable[None]]], Awaitable[None]]


class EventStream(Response):
    """Server-sent events, closed with [DONE]. `produce` is given `emit`; it is cancelled when the client leaves."""

    media_type = "text/event-stream"

    def __init__(self, produce: Produce) -> None:
        super().__init__()
        self._produce = produce
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def emit(frame: dict[str, Any]) -> None:
            await send({"type": "http.response.body", "body": _event(_dump(frame)), "more_body": True})

        async with anyio.create_task_group() as group:

            async def write() -> None:
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                try:
                    await self._produce(emit)
                except* EmbeddedError as errors:  # the head is out: told in the stream, as the engine does
                    await emit(_told(errors))
                await send({"type": "http.response.body", "body": _event(b"[DONE]"), "more_body": False})
                group.cancel_scope.cancel()

            group.start_soon(write)
            while (await receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()


async def until_disconnect(request: Request, body: Coroutine[Any, Any, dict[str, Any]]) -> Response:
    """The body as JSON, or an empty answer to nobody when the client has left meanwhile."""
    result: list[tuple[int, dict[str, Any]]] = []
    async with anyio.create_task_group() as group:

        async def compute() -> None:
            try:
                result.append((200, await body))
            except* EmbeddedError as errors:
                result.append((500, _told(errors)))
            group.cancel_scope.cancel()

        group.start_soon(compute)
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()
    return JSONResponse(result[0][1], result[0][0]) if result else Response(status_code=499)


def _told(errors: BaseExceptionGroup[EmbeddedError]) -> dict[str, Any]:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return {"error": {"message": str(error), "type": "InternalServerError", "param": None, "code": 500}}


def _dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _event(payload: bytes) -> bytes:
    return b"data: " + payload + b"\n\n"
