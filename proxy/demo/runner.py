"""Puts the demo together: toy model, proxy and playground in one process, the last two on one port.

The proxy is the one that `steer serve` runs, with settings of its own: hold mode, cut text revealed to clients that
ask (what the demo is about), and a log in a temporary folder that ends with the demo.
"""

import json
import signal
import tempfile
import webbrowser
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from starlette.types import ASGIApp

from proxy.app import create_app
from proxy.demo.app import DemoApp, is_loopback
from proxy.demo.errors import DemoError
from proxy.demo.examples import load_examples
from proxy.demo.serving import serving
from proxy.errors import ConfigError, UpstreamError
from proxy.server import bind
from proxy.session import Scorer
from proxy.settings import LogSettings, PolicySettings, Settings, UpstreamSettings
from proxy.upstream import UpstreamClient


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo: where it listens, and the toy model's name."""

    url: str
    model: str


def demo_settings(engine_url: str, folder: Path, threshold: float | None = None) -> Settings:
    """The proxy's settings. Made without the environment: an operator's STEER_… variables are not the demo's."""
    return Settings.model_construct(
        upstream=UpstreamSettings(url=engine_url),
        policy=PolicySettings(mode="hold", reveal_rejected=True, threshold=threshold),
        log=LogSettings(url=f"sqlite:///{folder}/demo.sqlite"),
    )


@asynccontextmanager
async def running_engine(engine: ASGIApp) -> AsyncIterator[str]:
    """The toy model's server on a loopback port of the system's choice; gives its URL."""
    async with serving(engine, bind("127.0.0.1", 0)) as url:
        yield url


@asynccontextmanager
async def running_demo(
    engine_url: str, host: str = "127.0.0.1", port: int = 8080, scorer: Scorer | None = None
) -> AsyncIterator[Demo]:
    """Proxy and playground in front of an engine, warmed up. Raises DemoError, ConfigError."""
    if not is_loopback(host):
        raise ConfigError(
            f"--host: {host} is not of this machine alone. The demo shows what it cut to whoever asks, so it listens "
            "on loopback only: use 127.0.0.1 or ::1, and an SSH tunnel from elsewhere"
        )
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="steer-demo-", ignore_cleanup_errors=True))
        listener = bind(host, port)
        stack.callback(listener.close)
        engine = await stack.enter_async_context(UpstreamClient(engine_url))
        model = await _model_of(engine)
        # An external scorer has no threshold of its own.
        settings = demo_settings(engine_url, Path(folder), None if scorer is None else 0.5)
        app = DemoApp(create_app(settings, scorer), engine, settings.log.url, model, load_examples())
        try:
            url = await stack.enter_async_context(serving(app, listener))
        except DemoError as error:
            raise DemoError(app.failure or str(error)) from error
        await _warm_up(url, model)
        yield Demo(url, model)


async def _model_of(engine: UpstreamClient) -> str:
    try:
        return str(json.loads(await engine.get("/v1/models"))["data"][0]["id"])
    except (UpstreamError, ValueError, LookupError, TypeError) as error:
        raise DemoError(f"the toy model does not answer: {error}") from error


async def _warm_up(url: str, model: str) -> None:
    """A first request, so that the visitor's own does not pay for probing the engine and filling caches."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "stream": False}
    async with UpstreamClient(url) as client:
        try:
            await client.post("/v1/chat/completions", body)
        except UpstreamError as error:
            raise DemoError(f"the demo came up but does not answer: {error}") from error


async def serve_demo(
    engine: ASGIApp, host: str, port: int, *, announce: Callable[[Demo], None], page: str, opens_browser: bool
) -> None:
    """Serve until interrupted; `page` is the path (and query) to open. Raises DemoError, ConfigError."""
    async with running_engine(engine) as engine_url, running_demo(engine_url, host, port) as demo:
        announce(demo)
        if opens_browser:
            await anyio.to_thread.run_sync(webbrowser.open, demo.url + page)
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                return
