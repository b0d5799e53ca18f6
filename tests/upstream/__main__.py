"""The scripted upstream as a process of its own, for benchmarks: `python -m tests.upstream --trace FILE --port N`.

FILE is JSON: {"reasoning": TEXT, "answer": TEXT}, and optionally "continuation": the same again, for resumed legs.
Prints its URL when it listens, then runs until it is stopped.
"""

import argparse
import json
import sys
from pathlib import Path

import anyio

from tests.upstream.script import Script, Trace, default_continuation
from tests.upstream.server import ScriptedUpstream


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description=__doc__)
    parser.add_argument("--trace", type=Path, help="JSON file with the texts to replay")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 picks a free one")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="milliseconds between frames")
    parser.add_argument("--tokens-per-frame", type=int, default=1)
    parser.add_argument("--has-generate", action="store_true", help="offer /inference/v1/generate")
    return parser.parse_args()


def _script(options: argparse.Namespace) -> Script:
    timing = {"delay_ms": options.delay_ms, "tokens_per_frame": options.tokens_per_frame}
    if options.trace is None:
        return Script(**timing, has_generate=options.has_generate)
    texts = json.loads(options.trace.read_text(encoding="utf-8"))
    continuation = texts.get("continuation")
    resumed = None if continuation is None else Trace(continuation["reasoning"], continuation["answer"])
    return Script(
        trace=Trace(texts["reasoning"], texts["answer"]),
        continuation=default_continuation if resumed is None else lambda _: resumed,
        has_generate=options.has_generate,
        **timing,
    )


async def _main(options: argparse.Namespace) -> None:
    async with ScriptedUpstream(_script(options), options.port) as upstream:
        sys.stdout.write(f"{upstream.url}\n")
        sys.stdout.flush()
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(_main, _parse())
