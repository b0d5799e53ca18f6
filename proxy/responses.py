"""Plain HTTP answers: JSON bodies and errors in OpenAI's shape."""

import json
from collections.abc import Mapping

from starlette.types import Send

from proxy.errors import RequestError, UpstreamError, UpstreamStatusError


async def send_json(send: Send, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
    """One complete JSON answer."""
    raw = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    raw += [(name.encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: RequestError | UpstreamError, headers: Mapping[str, str] | None = None) -> None:
    """The error's own status; the engine's own error body where it sent a JSON one."""
    body = json.dumps(error.to_openai(), ensure_ascii=False).encode()
    if isinstance(error, UpstreamStatusError) and _is_json_object(error):
        body = error.body
    await send_json(send, error.status if 400 <= error.status <= 599 else 502, body, headers)


def _is_json_object(error: UpstreamStatusError) -> bool:
    if "json" not in error.content_type:
        return False
    try:
        return isinstance(json.loads(error.body), dict)
    except ValueError:
        return False
