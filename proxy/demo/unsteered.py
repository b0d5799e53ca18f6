"""The left side of the playground: a chat request straight to the toy model, past the proxy, nothing held or cut."""

import json
from typing import Any

import anyio
from starlette.types import Receive, Send

from proxy.errors import RequestError, UpstreamError
from proxy.responses import send_json
from proxy.sse import DONE, encode
from proxy.upstream import UpstreamClient, UpstreamStream

# A playground prompt is a few hundred bytes; the bound keeps a stray upload out of memory.
_MAX_BODY_BYTES = 1 << 20
_PATH = "/v1/chat/completions"


async def unsteered(engine: UpstreamClient, receive: Receive, send: Send) -> None:
    """Serve one request. Raises RequestError, UpstreamError before the first byte."""
    body = await _read_json(receive)
    body.pop("steer", None)
    if not body.get("stream"):
        await send_json(send, 200, await engine.post(_PATH, body))
        return
    async with await engine.stream(_PATH, body) as stream, anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await _forward(stream, send)
        tasks.cancel_scope.cancel()


async def _forward(stream: UpstreamStream, send: Send) -> None:
    headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    try:
        async for payloads in stream:
            for payload in payloads:
                await send({"type": "http.response.body", "body": encode(payload), "more_body": True})
    except UpstreamError as error:
        failure = encode(json.dumps(error.to_openai(), ensure_ascii=False).encode())
        await send({"type": "http.response.body", "body": failure, "more_body": True})
    await send({"type": "http.response.body", "body": encode(DONE), "more_body": False})


async def _read_json(receive: Receive) -> dict[str, Any]:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] == "http.disconnect" or len(body) > _MAX_BODY_BYTES:
            raise RequestError(413, f"the request body is larger than {_MAX_BODY_BYTES} bytes", code="too_large")
        if not message.get("more_body", False):
            break
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(400, f"the request body is not valid JSON: {error}", code="invalid_json") from error
    if not isinstance(parsed, dict):
        raise RequestError(400, "the request body must be a JSON object", code="invalid_json")
    return parsed
