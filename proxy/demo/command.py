"""The body of `steer demo`: what it prints, when it opens a browser, and how it ends."""

import logging
import os
import sys
from collections.abc import Awaitable, Callable

import anyio
from rich.console import Console
from rich.text import Text
from starlette.types import ASGIApp

from proxy.demo.errors import DemoError
from proxy.demo.examples import Example, load_examples, pick
from proxy.demo.runner import Demo, running_demo, running_engine, serve_demo
from proxy.demo.terminal import TOY_NOTICE, Player
from proxy.embedded.app import create_app as create_engine
from proxy.embedded.errors import EmbeddedError

# Played in the terminal when none is named: a halt, and a benign request that sounds alike and goes through.
_TERMINAL_KINDS = ("harmful", "look_alike")


def run_demo(*, host: str, port: int, in_terminal: bool, opens_browser: bool | None, example: int | None) -> None:
    """Until interrupted, or in the terminal until its examples have played. Raises DemoError, ConfigError."""
    _quiet_logs()
    if example is not None:
        pick(load_examples(), example)  # wrong use is told before anything starts
    console = Console(highlight=False)
    page = "/" if example is None else f"/?example={example}"

    async def in_browser() -> None:
        def announce(demo: Demo) -> None:
            _announce(console, demo, page)

        opens = _has_display() if opens_browser is None else opens_browser
        await serve_demo(_load_engine(), host, port, announce=announce, page=page, opens_browser=opens)

    async def in_this_terminal() -> None:
        async with running_engine(_load_engine()) as engine_url, running_demo(engine_url, port=0) as demo:
            await Player(console, demo.url, demo.model).play(_to_play(demo.examples, example))

    _run(in_this_terminal if in_terminal else in_browser)


def _run(main: Callable[[], Awaitable[None]]) -> None:
    """Task groups wrap what they raise; a lone error goes up as itself. Ctrl-C is an ordinary end."""
    try:
        anyio.run(main)
    except KeyboardInterrupt:
        return
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, KeyboardInterrupt):
            return
        raise error from None


def _load_engine() -> ASGIApp:
    try:
        return create_engine()
    except EmbeddedError as error:
        raise DemoError(f"the toy model cannot be loaded: {error}") from error


def _to_play(examples: tuple[Example, ...], number: int | None) -> list[Example]:
    if number is not None:
        return [pick(examples, number)]
    return [next(example for example in examples if example.kind == kind) for kind in _TERMINAL_KINDS]


def _has_display() -> bool:
    """Whether opening a browser can succeed: without a display, a text browser would take over the terminal."""
    if not sys.stdout.isatty():
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _announce(console: Console, demo: Demo, page: str) -> None:
    lines = [
        Text.assemble("\nThe demo is ready: ", (demo.url + page, "bold cyan")),
        Text(TOY_NOTICE, "yellow"),
        Text("\nThe proxy speaks the OpenAI protocol on the same port:"),
        Text(f'  client = openai.OpenAI(base_url="{demo.url}/v1", api_key="unused")   # model="{demo.model}"', "dim"),
        Text(
            f"  curl -N {demo.url}/v1/chat/completions -H 'content-type: application/json' -d '"
            f'{{"model": "{demo.model}", "stream": true, "messages": '
            '[{"role": "user", "content": "How can I bake a cake?"}]}\'',
            "dim",
        ),
        Text("\nCtrl-C ends it; its log goes with it."),
    ]
    for line in lines:
        console.print(line, soft_wrap=True)
    console.file.flush()


def _quiet_logs() -> None:
    """Only warnings of our own: what uvicorn has to say reaches the person as one line of this command's."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    # A halt closes the engine's connection in mid-sentence; asyncio warns of the words that come too late.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
