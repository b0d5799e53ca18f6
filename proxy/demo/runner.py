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
from typing import Any

import anyio
from starlette.types import ASGIApp

from proxy.addresses import is_loopback
from proxy.app import create_app
from proxy.demo.app import DemoApp
from proxy.demo.errors import DemoError
from proxy.demo.examples import PLACEHOLDER, Example, load_examples
from proxy.demo.serving import serving
from proxy.errors import ConfigError, UpstreamError
from proxy.judge import Scorer
from proxy.server import bind
from proxy.settings import LogSettings, PolicySettings, Settings, UpstreamSettings
from proxy.upstream import UpstreamClient

# The opening is looked for among this many seeds, for at most this many seconds: the demo must be up in ten.
_OPENING_TRIES = 8
_OPENING_S = 4.0


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo: where it listens, the toy model's name, and the examples that it offers."""

    url: str
    model: str
    examples: tuple[Example, ...]


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
        async with UpstreamClient(url) as visitor:
            opening = await _choose_opening(visitor, engine, model, app.examples[0])
        app.examples = (opening, *app.examples[1:])
        yield Demo(url, model, app.examples)


async def _model_of(engine: UpstreamClient) -> str:
    try:
        return str(json.loads(await engine.get("/v1/models"))["data"][0]["id"])
    except (UpstreamError, ValueError, LookupError, TypeError) as error:
        raise DemoError(f"the toy model does not answer: {error}") from error


@dataclass(frozen=True, slots=True)
class _Heard:
    """What one request said, reasoning and answer together, and how it went."""

    said: str
    interventions: int
    ended: str | None

    @property
    def is_harmful(self) -> bool:
        return PLACEHOLDER.search(self.said) is not None


async def _choose_opening(demo: UpstreamClient, engine: UpstreamClient, model: str, opening: Example) -> Example:
    """The opening example with a seed that goes along unsteered and is corrected, best by a single intervention.

    It is looked for on this machine because what a seed samples is decided by floats. The first tries also warm
    everything up, so that the visitor's own request does not pay for it.
    """
    chosen: Example | None = None
    with anyio.move_on_after(_OPENING_S):
        for seed in range(opening.seed, opening.seed + _OPENING_TRIES):
            tried = opening.model_copy(update={"seed": seed})
            body = tried.request(model)
            steered = await _listen(demo, body | {"steer": {"show_interventions": True}})
            if not steered.interventions or steered.ended != "stop" or steered.is_harmful:
                continue
            if not (await _listen(engine, body)).is_harmful:
                continue
            if steered.interventions == 1:
                return tried
            chosen = chosen or tried
    return chosen or opening


async def _listen(client: UpstreamClient, body: dict[str, Any]) -> _Heard:
    """One streamed request, to its end. Raises DemoError."""
    said, interventions, ended = "", 0, None
    try:
        async with await client.stream("/v1/chat/completions", body) as stream:
            async for payloads in stream:
                for chunk in map(json.loads, payloads):
                    interventions += "steer" in chunk
                    for choice in chunk.get("choices", []):
                        said += choice["delta"].get("reasoning") or choice["delta"].get("content") or ""
                        ended = choice["finish_reason"] or ended
    except UpstreamError as error:
        raise DemoError(f"the demo came up but does not answer: {error}") from error
    return _Heard(said, interventions, ended)


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
