"""The client's side of a request: its stream, and its leaving.

Rules kept here: a client that disconnects takes its work with it at once, and one that stops reading after a bound; the
answer's headers go out with its first event; events keep their order whoever sends them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
from starlette.types import Receive, Send

from proxy.errors import UpstreamError
from proxy.sse import DONE, encode

# A client that takes nothing for this long has hung: it must not hold the engine's stream for ever.
CLIENT_TIMEOUT_S = 300.0


class ClientStuck(Exception):
    """The client has stopped reading; says for how long."""


@dataclass(slots=True)
class Answered:
    """Whether the client has been given all of its answer; what is still to be recorded then is not its business."""

    is_complete: bool = False


Work = Callable[[Answered], Awaitable[None]]


async def run_until_client_leaves(receive: Receive, work: Work) -> None:
    """Run `work`; stop it, closing its upstreams, as soon as the client disconnects.

    Task groups wrap what they raise; a lone UpstreamError goes up as itself.
    """
    try:
        await _run(receive, work)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, UpstreamError):
            raise error from None
        raise


def stuck_client(failure: BaseException) -> ClientStuck | None:
    """The first ClientStuck inside what task groups have wrapped; None where there is none."""
    if isinstance(failure, BaseExceptionGroup):
        return next((stuck for inner in failure.exceptions if (stuck := stuck_client(inner)) is not None), None)
    return failure if isinstance(failure, ClientStuck) else None


async def _run(receive: Receive, work: Work) -> None:
    answered = Answered()
    async with anyio.create_task_group() as tasks:

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not answered.is_complete:  # servers report a disconnect once the answer is complete, too
                tasks.cancel_scope.cancel()

        tasks.start_soon(watch)
        await work(answered)
        tasks.cancel_scope.cancel()


class StreamWriter:
    """The client's side of a stream: headers with the first event, events in order, one end. Raises ClientStuck."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._headers = headers
        self._lock = anyio.Lock()
        self._has_started = False

    @property
    def has_started(self) -> bool:
        """Whether the client has been sent anything."""
        return self._has_started

    async def event(self, payload: bytes) -> None:
        """Send one event."""
        async with self._lock:
            await self._put(encode(payload), more=True)

    async def end(self) -> None:
        """The end mark, and the end of the body."""
        async with self._lock:
            await self._put(encode(DONE), more=False)

    async def _put(self, body: bytes, *, more: bool) -> None:
        await self._start()
        limit_s = CLIENT_TIMEOUT_S
        with anyio.move_on_after(limit_s) as waiting:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})
        if waiting.cancelled_caught:
            raise ClientStuck(f"the client took nothing for {limit_s:g} s")

    async def _start(self) -> None:
        if not self._has_started:
            self._has_started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
