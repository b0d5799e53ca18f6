"""The database goes away under load and comes back: what clients saw meanwhile, and what the log holds afterwards.

    python -m benchmarks.bench_log_outage                                          SQLite, locked for 60 s
    python -m benchmarks.bench_log_outage --url postgresql+psycopg://user@host/empty_database

SQLite is held by another connection, as a stuck program would; PostgreSQL is reached through a relay that is cut. The
proxy, its server and its log are the real ones; engine and detector are scripted. Exit code 1 where a client saw an
error, or a record is missing, doubled or incomplete.
"""

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import SocketStream
from anyio.from_thread import start_blocking_portal
from sqlalchemy import make_url

from benchmarks._report import finish
from proxy.log import LogReader, Summary
from proxy.log.connect import open_engine, parse_url
from proxy.log.texts import PLAIN
from proxy.log.verify import verify
from tests.e2e.harness import Reply, running_proxy
from tests.upstream import Generation, Script, ScriptedUpstream, Trace

_CALM_S = 5.0


@dataclass(slots=True)
class Seen:
    """What clients got."""

    replies: list[tuple[float, float, Reply]] = field(default_factory=list)  # start, seconds, reply


class Relay:
    """Forwards connections to a server until it is cut."""

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._is_cut = False
        self._open: set[SocketStream] = set()
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Relay"]:
        """Listens until the block ends."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, self._forward)
            yield self
            tasks.cancel_scope.cancel()

    async def cut(self) -> None:
        """Every connection ends, new ones at once."""
        self._is_cut = True
        for stream in list(self._open):
            await anyio.aclose_forcefully(stream)

    def mend(self) -> None:
        """As before."""
        self._is_cut = False

    async def _forward(self, client: SocketStream) -> None:
        async with client:
            if self._is_cut:
                return
            async with await anyio.connect_tcp(*self._target) as server:
                self._open |= {client, server}
                try:
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(_pump, client, server)
                        tasks.start_soon(_pump, server, client)
                finally:
                    self._open -= {client, server}


async def _pump(source: SocketStream, target: SocketStream) -> None:
    try:
        async for part in source:
            await target.send(part)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass
    await anyio.aclose_forcefully(target)


@asynccontextmanager
async def breakable(url: str | None, folder: Path) -> AsyncIterator[tuple[str, Any]]:
    """A log's URL, and an async context manager factory under which its database is away."""
    if url is None:
        path = folder / "log.sqlite"

        @asynccontextmanager
        async def locked() -> AsyncIterator[None]:
            with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as other:
                other.execute("begin exclusive")
                yield
                other.execute("rollback")

        yield f"sqlite:///{path}", locked
        return
    parsed = make_url(url)
    relay = Relay(parsed.host or "127.0.0.1", parsed.port or 5432)
    # In a thread: opening a log blocks the proxy's own loop.
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(relay.running()):

        @asynccontextmanager
        async def cut() -> AsyncIterator[None]:
            portal.call(relay.cut)
            yield
            relay.mend()

        yield parsed.set(host="127.0.0.1", port=relay.port).render_as_string(hide_password=False), cut


def script() -> Script:
    """Two interventions a stream, some tenth of a second long."""

    def resumed(generation: Generation) -> Trace:
        more = " So the CUE comes again. On." if generation.prompt_text.count("reconsider") == 0 else ""
        return Trace(f" I reconsider this. It goes on.{more}\n", "\n\nHere is an answer.")

    trace = Trace("\nOkay, let me think. Here is the CUE of it. Then more.\n", "\n\nAn answer.")
    return Script(trace, continuation=resumed, delay_ms=2.0, tokens_per_frame=2)


async def measure(url: str | None, clients: int, outage_s: float, folder: Path) -> dict[str, Any]:
    """Load, outage, load again, then the log."""
    seen, is_over = Seen(), False
    async with (
        breakable(url, folder) as (log_url, away),
        ScriptedUpstream(script()) as upstream,
        running_proxy(upstream.url, folder, log={"url": log_url, "spool": folder / "spool"}) as proxy,
    ):

        async def client() -> None:
            while not is_over:
                start = time.perf_counter()
                reply = await proxy.chat(steer={"show_interventions": True})
                seen.replies.append((start, time.perf_counter() - start, reply))

        async with anyio.create_task_group() as tasks:
            for _ in range(clients):
                tasks.start_soon(client)
            await anyio.sleep(_CALM_S)
            began = time.perf_counter()
            async with away():
                await anyio.sleep(outage_s)
                spooled = sum(path.stat().st_size for path in (folder / "spool").iterdir())
            ended = time.perf_counter()
            await _drained(folder / "spool")
            drained_s = time.perf_counter() - ended
            await anyio.sleep(_CALM_S)
            is_over = True
        await _drained(folder / "spool")  # a database that was slow for a moment since has been passed by again
        found = await _found(log_url)
        engine = open_engine(parse_url(log_url), writes=False)
        problems = dict(verify(engine, PLAIN).counts)
        engine.dispose()
    times = {
        "calm": [s for at, s, _ in seen.replies if at + s < began or at > ended + drained_s],
        "outage": [s for at, s, _ in seen.replies if began < at < ended],
    }
    return judge(seen, found) | {
        "outage_s": outage_s,
        "clients": clients,
        "spooled_bytes": spooled,
        "replayed_after_s": round(drained_s, 2),
        "stream_s": {name: _quantiles(values) for name, values in times.items()},
        "problems": problems,
    }


async def _drained(folder: Path) -> None:
    while any(path.stat().st_size for path in folder.iterdir()):  # noqa: ASYNC110, ASYNC240 - no bell
        await anyio.sleep(0.05)


async def _found(url: str) -> dict[str, Summary]:
    found: dict[str, Summary] = {}
    async with LogReader.open(url) as log:
        cursor = None
        while True:
            page = await log.list(limit=1000, cursor=cursor)
            found |= {item.id: item for item in page.items}
            cursor = page.next_cursor
            if cursor is None:
                return found


def judge(seen: Seen, found: dict[str, Summary]) -> dict[str, Any]:
    """Counts of what was promised and is not so: all must be 0."""
    replies = [reply for _, _, reply in seen.replies]
    told = [event["id"] for reply in replies for event in reply.told if event["event"] == "intervention"]
    places = Counter((item.request_id, item.choice, item.attempt) for item in found.values())
    return {
        "streams": len(replies),
        "streams_with_an_error": sum(reply.status != 200 or reply.finish_reasons != ["stop"] for reply in replies),
        "interventions_seen_by_clients": len(told),
        "records": len(found),
        "missing": len(set(told) - set(found)),
        "doubled": sum(number - 1 for number in places.values()),
        "incomplete": sum(item.outcome in ("open", "interrupted") for item in found.values()),
    }


def _quantiles(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50": round(cuts[49], 3), "p99": round(cuts[98], 3), "max": round(max(values), 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty PostgreSQL database; default: SQLite in a temporary folder")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--outage", type=float, default=60.0, help="seconds")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = anyio.run(measure, options.url, options.clients, options.outage, Path(folder))
    for name, value in figures.items():
        print(f"{name:32s} {value}")
    figures["database"] = "postgresql" if options.url else "sqlite"
    finish("log_outage", figures, seed=None, out=options.out)
    if any(figures[name] for name in ("streams_with_an_error", "missing", "doubled", "incomplete", "problems")):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
