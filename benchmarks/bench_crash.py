"""Kills a serving proxy with SIGKILL at random points of live streams, again and again, and counts what was lost.

    python -m benchmarks.bench_crash                                              1,000 kills, SQLite
    python -m benchmarks.bench_crash --kills 300 --url postgresql+psycopg://user@host/empty_database
    python -m benchmarks.bench_crash --work FOLDER                                goes on where an earlier run ended

The application, its server and its log are the real ones; engine and detector are scripted. A process is killed, not
the machine: what the kernel was given survives. Exit code 1 where anything was lost, doubled or half-written.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks._report import finish
from proxy.log import InterventionLog, Summary
from proxy.log.connect import open_engine, parse_url
from proxy.log.setup import make_spool
from proxy.log.store import LogOptions
from proxy.log.texts import PLAIN
from proxy.log.verify import verify
from proxy.settings import LogSettings
from tests.upstream import Generation, Script, ScriptedUpstream, Trace

# Streams that run at a time: what one kill hits.
LANES = 6
# A life ends after a random number of bytes up to this (two rounds of streams), and a random moment up to the other.
# Bytes, so that kills fall everywhere in a stream on a slow machine as on a fast one.
_MOST_BYTES = 2 * LANES * 5_000
_MOST_S = 0.004
_TOLD = re.compile(rb'"event":\s*"intervention",\s*"id":\s*"([0-9a-f]+)"')
_BODY = json.dumps(
    {
        "model": "scripted", "stream": True, "messages": [{"role": "user", "content": "placeholder"}],
        "steer": {"show_interventions": True},
    }
).encode()  # fmt: skip
_REQUEST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(
    _BODY
)


@dataclass(slots=True)
class Stream:
    """What one client got before its connection ended."""

    raw: bytearray = field(default_factory=bytearray)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_over: bool = False

    @property
    def told(self) -> list[str]:
        """Interventions whose trigger the client saw."""
        return [match.decode() for match in _TOLD.findall(bytes(self.raw))]

    @property
    def has_ended(self) -> bool:
        """Whether the client saw the terminal frame."""
        return b"data: [DONE]" in self.raw


@dataclass(frozen=True, slots=True)
class Life:
    """What the clients of one life saw; a line of lives.jsonl."""

    seconds: float
    streams: int
    ended: int
    cut: int
    told: list[str]
    promised: list[str]
    """Interventions of streams that ended before their clients' eyes: these must be complete."""

    @classmethod
    def of(cls, streams: list[Stream], seconds: float) -> "Life":
        """Summed up."""
        return cls(
            round(seconds, 2),
            len(streams),
            sum(stream.has_ended for stream in streams),
            sum(bool(stream.raw) and not stream.has_ended for stream in streams),
            [record_id for stream in streams for record_id in stream.told],
            [record_id for stream in streams if stream.has_ended for record_id in stream.told],
        )


@dataclass(slots=True)
class Server:
    """The process that forks lives."""

    process: "subprocess.Popen[str]"
    port: int

    def fork(self) -> int:
        """A new life; its process id."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def server(settings: dict[str, Any]) -> Iterator[Server]:
    """Until the block ends."""
    command = [sys.executable, "-m", "benchmarks._crash_server", json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline()))


def script(chance: random.Random) -> Script:
    """Streams with one or two cues."""

    def resumed(generation: Generation) -> Trace:
        is_again = generation.prompt_text.count("CUE") == 0 and chance.random() < 0.4
        more = " So the CUE comes again. And on." if is_again else ""
        return Trace(f" I reconsider this. It goes on a little.{more}\n", "\n\nHere is an answer. It has an end.")

    thought = "\nOkay, let me think about this. It is a request. Here is the CUE of it. Then more.\n"
    return Script(Trace(thought, "\n\nAn answer."), continuation=resumed, tokens_per_frame=3)


async def live(port: int, pid: int, chance: random.Random) -> list[Stream]:
    """One life, from its first bytes to its kill."""
    streams: list[Stream] = []
    due, budget = anyio.Event(), chance.random() * _MOST_BYTES
    is_killed = False

    def came() -> None:
        if sum(len(stream.raw) for stream in streams) > budget:
            due.set()

    async def lane() -> None:
        while not is_killed:
            stream = Stream()
            streams.append(stream)
            with stream.scope:
                await _listen(port, stream, came)
            stream.is_over = True

    async with anyio.create_task_group() as tasks:
        for _ in range(LANES):
            tasks.start_soon(lane)
        with anyio.fail_after(180):  # far beyond what a busy machine needs to start a life
            await due.wait()
        await anyio.sleep(chance.random() * _MOST_S)
        is_killed = True
        os.kill(pid, signal.SIGKILL)
        for stream in streams:
            if not stream.raw:  # not accepted yet: it would wait for the next life
                stream.scope.cancel()
        with anyio.move_on_after(0.5):  # what the kernel still holds for the others
            while not all(stream.is_over for stream in streams):  # noqa: ASYNC110 - each lane ends by itself
                await anyio.sleep(0.002)
        tasks.cancel_scope.cancel()
    return streams


async def _listen(port: int, stream: Stream, came: Callable[[], None]) -> None:
    try:
        async with await anyio.connect_tcp("127.0.0.1", port) as connection:
            await connection.send(_REQUEST + _BODY)
            while True:
                stream.raw += await connection.receive()
                came()
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
        return


async def kill_many(url: str, kills: int, seed: int, *, diary: Path | None = None) -> dict[str, Any]:
    """All lives on one log, then what the log holds. Use an empty database, or that of the diary's lives."""
    lives = _read(diary)
    # A script of its own for each run that goes on, so that it repeats none.
    async with ScriptedUpstream(script(random.Random(f"{seed}:{len(lives)}"))) as upstream:
        settings = {
            "log": {"url": url},
            "upstream": {"url": upstream.url},
            "policy": {"threshold": 0.5},
            "metrics": {"enabled": False},
        }
        with server(settings) as forks:
            for number in range(len(lives), kills):
                started = time.perf_counter()
                pid = await anyio.to_thread.run_sync(forks.fork)
                streams = await live(forks.port, pid, random.Random(f"{seed}:{number}"))
                lives.append(Life.of(streams, time.perf_counter() - started))
                upstream.generations.clear()
                upstream.requests.clear()
                if diary is not None:
                    _note(diary, lives)
            assert forks.process.stdin is not None
            forks.process.stdin.close()
    found = await _found(url)
    return {"kills": kills, "seconds": round(sum(life.seconds for life in lives), 1)} | judge(lives, found, url)


def _read(diary: Path | None) -> list[Life]:
    if diary is None or not diary.exists():
        return []
    return [Life(**json.loads(line)) for line in diary.read_text(encoding="utf-8").splitlines()]


def _note(diary: Path, lives: list[Life]) -> None:
    with diary.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(lives[-1])) + "\n")
    if len(lives) % 50 == 0:
        seen, seconds = sum(len(life.told) for life in lives), sum(life.seconds for life in lives)
        print(f"{len(lives)} kills, {seen} interventions seen, {seconds:.0f} s", flush=True)


async def _found(url: str) -> dict[str, Summary]:
    """What the log holds once the next process has opened it: it replays spools and marks what was left open."""
    options = LogOptions(spool=make_spool(LogSettings(url=url)))
    found: dict[str, Summary] = {}
    async with InterventionLog.open(url, options) as log:
        cursor = None
        while True:
            page = await log.list(limit=1000, cursor=cursor)
            found |= {item.id: item for item in page.items}
            cursor = page.next_cursor
            if cursor is None:
                return found


def judge(lives: list[Life], found: dict[str, Summary], url: str) -> dict[str, Any]:
    """Counts of what was promised and is not so: all must be 0."""
    told = [record_id for life in lives for record_id in life.told]
    promised = [record_id for life in lives for record_id in life.promised]
    incomplete = [
        record_id
        for record_id in promised
        if record_id in found and found[record_id].outcome in ("open", "interrupted")
    ]
    places = Counter((item.request_id, item.choice, item.attempt) for item in found.values())
    engine = open_engine(parse_url(url), writes=False)
    findings = verify(engine, PLAIN)
    engine.dispose()
    return {
        "streams": sum(life.streams for life in lives),
        "streams_ended": sum(life.ended for life in lives),
        "streams_cut_by_a_kill": sum(life.cut for life in lives),
        "interventions_seen_by_clients": len(told),
        "records": len(found),
        "outcomes": dict(Counter(item.outcome for item in found.values())),
        "missing": len(set(told) - set(found)),
        "doubled": sum(number - 1 for number in places.values()) + len(told) - len(set(told)),
        "half_written": sum(findings.counts.values()),
        "ended_but_incomplete": len(incomplete),
        "left_open": sum(item.outcome == "open" for item in found.values()),
        "problems": dict(findings.counts),
    }


PROMISES = ("missing", "doubled", "half_written", "ended_but_incomplete", "left_open")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty database; default: SQLite in a temporary folder")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="folder of log and diary; goes on with what is there")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        url = options.url or f"sqlite:///{folder}/log.sqlite"
        diary = folder / "lives.jsonl"
        figures = anyio.run(lambda: kill_many(url, options.kills, options.seed, diary=diary))
    for name, value in figures.items():
        print(f"{name:32s} {value}")
    figures["database"] = parse_url(options.url).get_backend_name() if options.url else "sqlite"
    finish("crash", figures, seed=options.seed, out=options.out)
    if any(figures[name] for name in PROMISES):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
