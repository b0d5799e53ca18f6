"""HTTP/1.1 by hand, so that a test decides about every byte: requests in, bodies and event streams out, faults too."""

import json
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import SocketAttribute, SocketStream

from tests.upstream.script import Fault, Framing

_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 429: "Too Many Requests"}
_MAX_REQUEST_BYTES = 64 << 20


class Gone(Exception):
    """The client closed the connection, or a fault did."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as received; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Connection:
    """One client connection: requests one after the other, and the bytes of the answers."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._received = b""

    async def next_request(self) -> HttpRequest | None:
        """None when the client is done. Raises Gone when it leaves inside a request."""
        while b"\r\n\r\n" not in self._received:
            if not await self._receive():
                return None
        head, _, rest = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        assert length <= _MAX_REQUEST_BYTES
        self._received = rest
        while len(self._received) < length:
            if not await self._receive():
                raise Gone
        body, self._received = self._received[:length], self._received[length:]
        return HttpRequest(method, path.partition("?")[0], headers, body)

    async def until_gone(self) -> None:
        """Returns when the client has closed its side."""
        while await self._receive():
            pass

    async def write(self, data: bytes, step: int | None = None) -> None:
        """Raises Gone when the client has left. `step`: bytes per write."""
        try:
            if step is None:
                await self._stream.send(data)
                return
            for start in range(0, len(data), step):
                await self._stream.send(data[start : start + step])
                await anyio.lowlevel.checkpoint()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            raise Gone from error

    async def answer(self, status: int, body: bytes, content_type: str = "application/json") -> None:
        """A whole response."""
        head = f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\ncontent-length: {len(body)}\r\n"
        await self.write(f"{head}content-type: {content_type}\r\n\r\n".encode() + body)

    async def reset(self) -> None:
        """Close with a TCP reset."""
        raw: socket.socket = self._stream.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._stream.aclose()

    async def _receive(self) -> bool:
        try:
            self._received += await self._stream.receive(1 << 16)
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True


def dump(value: Any) -> bytes:
    """JSON as the engine spells it: compact, characters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def event(payload: bytes, framing: Framing) -> bytes:
    """One server-sent event."""
    newline, prefix = framing.newline.encode(), b"data: " if framing.space else b"data:"
    lines = [payload]
    if framing.multi_line and payload != b"[DONE]":
        lines = json.dumps(json.loads(payload), ensure_ascii=False, indent=0).encode().split(b"\n")
    head = b": keep-alive" + newline + b"event: message" + newline + b"id: 1" + newline if framing.comments else b""
    return head + b"".join(prefix + line + newline for line in lines) + newline


async def stream_events(
    connection: Connection, payloads: AsyncIterator[bytes], framing: Framing, fault: Fault | None
) -> None:
    """An event stream in chunked transfer coding, with [DONE]; `fault` acts on the way. Raises Gone."""
    kind = (fault.content_type if fault else None) or "text/event-stream; charset=utf-8"
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\nvary: Origin\r\ntransfer-encoding: chunked\r\n\r\n"
    await connection.write(head.encode())

    async def send(data: bytes) -> None:
        await connection.write(b"%x\r\n%b\r\n" % (len(data), data), framing.write_bytes)

    number = 0
    async for payload in payloads:
        if fault is not None and fault.action not in (None, "no_done") and number == fault.after_frames:
            await _strike(connection, fault, payload, framing, send)
        await send(event(payload, framing))
        number += 1
    if fault is None or fault.action != "no_done":
        await send(event(b"[DONE]", framing))
    await connection.write(b"0\r\n\r\n")


async def _strike(
    connection: Connection, fault: Fault, payload: bytes, framing: Framing, send: Callable[[bytes], Any]
) -> None:
    match fault.action:
        case "fin":
            raise Gone
        case "rst":
            await connection.reset()
            raise Gone
        case "half_frame":
            await send(event(payload, framing)[: len(payload) // 2])
            raise Gone
        case "half_event":
            await send(event(payload, framing)[: len(payload) // 2])
            await connection.write(b"0\r\n\r\n")
            raise Gone
        case "garbage":
            await send(bytes(range(128, 256)) + b"\x00\xff" + framing.newline.encode() * 2)
            await send(event(b"\xff\xfe{", framing))
        case "not_json":
            await send(event(b"this is no JSON", Framing(newline=framing.newline)))
        case "huge":
            await send(event(dump({"choices": [{"index": 0, "delta": {"content": "x" * (32 << 20)}}]}), framing))
        case "error_frame":
            await send(event(fault.body, Framing(newline=framing.newline)))
        case "stall":
            await anyio.sleep(fault.stall_s)
        case _:
            pass
