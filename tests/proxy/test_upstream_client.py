"""The client of the engine on real sockets, where an engine behaves as servers do and scripts do not."""

import socket

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from proxy.errors import UpstreamError
from proxy.upstream import UpstreamClient

pytestmark = pytest.mark.anyio
_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


class ClosingServer:
    """Answers `answers` requests on a connection, then closes it as soon as the next one comes in."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.connections = 0

    async def serve(self, stream: SocketStream) -> None:
        self.connections += 1
        async with stream:
            for number in range(self.answers + 1):
                try:
                    await stream.receive()
                except anyio.EndOfStream:
                    return
                if number < self.answers:
                    await stream.send(_ANSWER)


async def ask(server: ClosingServer, times: int) -> list[bytes]:
    answers: list[bytes] = []
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, server.serve)
        port = listener.extra(SocketAttribute.local_port)
        try:
            async with UpstreamClient(f"http://127.0.0.1:{port}") as client:
                answers += [await client.post("/x", {}) for _ in range(times)]
        finally:
            tasks.cancel_scope.cancel()
    return answers


async def test_a_connection_that_the_engine_closed_while_idle_costs_no_request() -> None:
    server = ClosingServer(answers=1)
    assert await ask(server, 3) == [b"{}"] * 3
    assert server.connections == 3


async def test_an_engine_that_always_hangs_up_is_asked_twice_and_then_told() -> None:
    server = ClosingServer(answers=0)
    with pytest.raises(BaseExceptionGroup) as caught:
        await ask(server, 1)
    assert caught.group_contains(UpstreamError, match="cannot reach the upstream")
    assert server.connections == 2


async def test_nobody_listening_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with UpstreamClient(f"http://127.0.0.1:{taken.getsockname()[1]}") as client:
            with pytest.raises(UpstreamError, match="start the engine"):
                await client.post("/x", {})
