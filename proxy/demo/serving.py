"""Serves an application on a bound socket inside the caller's event loop, until the caller's block ends."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import uvicorn
from starlette.types import ASGIApp

from proxy.demo.errors import DemoError

# Streams that still run when the demo is stopped get this long; nobody waits for a toy.
_GRACEFUL_SHUTDOWN_S = 1


class _Server(uvicorn.Server):
    """Two share a process, so signals are left to whoever started them. `settled`: it is up, or never will be."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.settled = anyio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As ever, and then says so."""
        await super().startup(sockets)
        self.settled.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the handlers as they are."""
        yield


@contextlib.asynccontextmanager
async def serving(app: ASGIApp, listener: socket.socket) -> AsyncIterator[str]:
    """Gives the base URL once the application is up. Raises DemoError when it does not come up."""
    host, port = listener.getsockname()[:2]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=_GRACEFUL_SHUTDOWN_S,
    )
    server = _Server(config)
    stopped = anyio.Event()

    async def serve() -> None:
        try:
            await server.serve([listener])
        except SystemExit:
            pass  # uvicorn's way to say that the application did not start; `started` tells
        finally:
            server.settled.set()
            stopped.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        try:
            await server.settled.wait()
            if server.started:
                yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        finally:
            server.should_exit = True
            with anyio.CancelScope(shield=True):
                await stopped.wait()
    if not server.started:  # raised outside the task group, which would wrap it
        raise DemoError("a part of the demo could not start")
