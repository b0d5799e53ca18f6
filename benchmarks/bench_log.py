"""The intervention log: how long a record takes to be on disk, alone and in a crowd, and how fast a large log reads.

    python -m benchmarks.bench_log                                        SQLite in a temporary folder
    python -m benchmarks.bench_log --url postgresql+psycopg://user@host/empty_database
    python -m benchmarks.bench_log --records 1000000                      reads at the size of a busy year

Each write is one record of about 6 kB, timed from the call until it is durable. Use an empty database: the benchmark
fills it. "bare fsync" is what the disk under the temporary folder takes by itself.
"""

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from sqlalchemy import insert

from benchmarks._report import finish
from proxy.log import Filters, InterventionLog, folding, rows
from proxy.log.connect import open_engine, parse_url
from proxy.log.exports import opened
from proxy.log.tables import intervention_texts, interventions
from steer.record import Completion, InterventionRecord, TextSpan, Timings

_TEXT = "The request asks for a placeholder, and the reasoning goes on about it. " * 40
_OUTCOMES = ("completed", "halted_again", "refused", "client_left", "interrupted")
_START = datetime(2026, 1, 1, tzinfo=UTC)


def example(record_id: str, created_at: datetime, chance: random.Random, **changes: Any) -> InterventionRecord:
    """A record of the usual size."""
    fields: dict[str, Any] = {
        "id": record_id, "request_id": f"r-{record_id}", "attempt": 0, "created_at": created_at, "mode": "hold",
        "tenant": f"tenant-{chance.randrange(20)}", "model": "lrm", "policy_hash": "p", "detector_hash": "d",
        "trigger_id": f"trigger-{chance.randrange(12)}", "channel": "reasoning", "score": chance.random(),
        "category": f"topic-{chance.randrange(15)}", "messages": [{"role": "user", "content": _TEXT[:500]}],
        "prompt_token_ids": list(range(200)), "kept": TextSpan(text=_TEXT, token_ids=list(range(300))),
        "rejected": TextSpan(text=_TEXT[:120], token_ids=list(range(30))),
        "timings": Timings(halted_ms=300.0, verdict_ms=4.0),
    }  # fmt: skip
    return InterventionRecord(**(fields | changes))


_END = Completion(
    outcome="completed", continuation=TextSpan(text=_TEXT), timings=Timings(halted_ms=300, resumed_ms=330, ended_ms=900)
)


def fsync_ms(folder: Path, times: int = 50) -> float:
    """Median of a 4 kB write and fsync."""
    taken = []
    with (folder / "probe").open("wb", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - start) * 1000)
    (folder / "probe").unlink()
    return statistics.median(taken)


def quantiles(taken: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {"p50_ms": round(cuts[49], 2), "p95_ms": round(cuts[94], 2), "p99_ms": round(cuts[98], 2)}


async def timed(taken: list[float], call: Callable[[], Awaitable[object]]) -> None:
    """Await one call and note its milliseconds."""
    start = time.perf_counter()
    await call()
    taken.append((time.perf_counter() - start) * 1000)


async def writes(log: InterventionLog, callers: int, total: int, chance: random.Random) -> dict[str, Any]:
    """`total` records through both phases by `callers` at a time."""
    inserts: list[float] = []
    completions: list[float] = []

    async def caller(lane: int) -> None:
        for number in range(total // callers):
            record = example(f"w{callers}-{lane}-{number}", datetime.now(UTC), chance)
            await timed(inserts, partial(log.insert, record))
            await timed(completions, partial(log.complete, record.id, _END))

    start = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for lane in range(callers):
            tasks.start_soon(caller, lane)
    seconds = time.perf_counter() - start
    rate = {"records_per_s": round(len(inserts) / seconds)}
    return {"callers": callers, **rate, "insert": quantiles(inserts), "complete": quantiles(completions)}


def fill(url: str, number: int, chance: random.Random) -> None:
    """Bulk-load completed records, small ones: lists and counts don't read their text."""
    engine = open_engine(parse_url(url), writes=True)
    first = example("b", _START, chance, kept=TextSpan(text="k"), prompt_token_ids=None)
    columns, body = rows.halt_columns(first), rows.halt_body(first)
    start_us = columns["created_us"]

    def row(index: int) -> dict[str, Any]:
        topic = "rare" if index % 50_000 == 7 else f"topic-{chance.randrange(15)}"
        return columns | {
            "id": f"b{index:09d}", "request_id": f"r-b{index:09d}", "created_us": start_us + index * 1_000_000,
            "tenant": f"tenant-{chance.randrange(20)}", "trigger_id": f"trigger-{chance.randrange(12)}",
            "category": topic, "score": chance.random(), "outcome": chance.choice(_OUTCOMES),
        }  # fmt: skip

    for start in range(0, number, 5_000):
        made = [row(index) for index in range(start, min(start + 5_000, number))]
        with engine.begin() as connection:
            connection.execute(insert(interventions), made)
            connection.execute(
                insert(intervention_texts),
                [{"intervention_id": item["id"], "part": "halt", "body": body} for item in made],
            )
        with engine.begin() as connection:
            folding.fold(connection)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_server = connection.dialect.name == "postgresql"
        connection.exec_driver_sql("vacuum analyze" if is_server else "analyze")  # as its own daemon does in time
    engine.dispose()


async def reads(log: InterventionLog, number: int, chance: random.Random, times: int = 20) -> dict[str, Any]:
    """Queries as a dashboard makes them."""
    middle = _START + timedelta(seconds=number // 2)
    day = timedelta(days=1)
    tenant = Filters(tenant="tenant-3")

    async def page(filters: Filters) -> None:
        await log.list(filters, limit=50)

    lists = {
        "newest": Filters(),
        "middle": Filters(until=middle),
        "one tenant": tenant,
        "topic and outcome": Filters(category="topic-7", outcome="refused"),
        "tenant, topic and trigger": Filters(tenant="tenant-3", category="topic-7", trigger_id="trigger-5"),
        "rare topic": Filters(category="rare"),
        "no such adapter": Filters(adapter="none of these"),
        "other mode": Filters(mode="monitor"),
        "reviewed": Filters(review_state="confirmed"),
        "sure, one tenant": Filters(tenant="tenant-3", min_score=0.999),
    }
    counts = {
        "everything": Filters(),
        "one tenant": tenant,
        "one mode": Filters(mode="hold"),
        "a day and a half": Filters(since=middle, until=middle + 1.5 * day),
        "one tenant, open end": Filters(tenant="tenant-3", since=middle),
        "one topic": Filters(category="topic-7"),
        "one outcome": Filters(outcome="refused"),
        "one outcome, a day": Filters(outcome="refused", since=middle, until=middle + day),
    }
    several = {
        "topic and tenant": Filters(tenant="tenant-3", category="topic-7"),
        "topic and outcome": Filters(category="topic-7", outcome="refused"),
        "mode, model and outcome": Filters(mode="hold", model="lrm", outcome="refused"),
    }
    cases: dict[str, Callable[[], Awaitable[object]]] = {
        "one record": lambda: log.get(f"b{chance.randrange(number):09d}"),
        **{f"page: {name}": partial(page, filters) for name, filters in lists.items()},
        **{f"stats: {name}": partial(log.stats, filters) for name, filters in counts.items()},
        **{f"stats by cells: {name}": partial(log.stats, filters) for name, filters in several.items()},
        "stats by rows: score": partial(log.stats, Filters(min_score=0.9)),
    }
    figures = {}
    for name, call in cases.items():
        taken: list[float] = []
        for _ in range(times):
            await timed(taken, call)
        figures[name] = quantiles(taken)
    return figures


async def exports(log: InterventionLog, number: int, folder: Path) -> dict[str, Any]:
    """The most memory that an export takes at once, for a small and a large part of the log."""
    figures = {}
    for part in sorted({min(number, 2_000), min(number, 20_000)}):
        until = _START + timedelta(seconds=part)
        tracemalloc.start()
        start, written = time.perf_counter(), 0
        with opened(folder / "export.jsonl", "jsonl") as sink:
            async for record in log.export(Filters(until=until)):
                written += sink(record)
        seconds, (_, peak) = time.perf_counter() - start, tracemalloc.get_traced_memory()
        tracemalloc.stop()
        figures[str(part)] = {"records": written, "peak_mb": round(peak / 1e6, 1)}
        print(f"export of {written} records: {written / seconds:.0f}/s (traced), at most {peak / 1e6:.1f} MB")
    return figures


async def measure(url: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures, printed as they come."""
    chance = random.Random(options.seed)
    figures: dict[str, Any] = {"writes": []}
    async with InterventionLog.open(url) as log:
        for callers in (1, 8, 64):
            result = await writes(log, callers, options.writes, chance)
            figures["writes"].append(result)
            print(
                f"{callers:3d} callers: {result['records_per_s']:5d} records/s through both phases, "
                f"insert p50 {result['insert']['p50_ms']} ms, p99 {result['insert']['p99_ms']} ms"
            )
        if options.records:
            start = time.perf_counter()
            await anyio.to_thread.run_sync(fill, url, options.records, chance)
            print(f"filled with {options.records} records in {time.perf_counter() - start:.0f} s")
            figures["reads"] = await reads(log, options.records, chance)
            for name, result in figures["reads"].items():
                print(f"{name:40s} p50 {result['p50_ms']:8.2f} ms   p95 {result['p95_ms']:8.2f} ms")
            figures["export"] = await exports(log, options.records, folder)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="an empty database; default: SQLite in a temporary folder")
    parser.add_argument("--writes", type=int, default=1280, help="records written at each number of callers")
    parser.add_argument("--records", type=int, default=100_000, help="size of the log that is read; 0 reads nothing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bare = fsync_ms(folder)
        print(f"bare fsync: {bare:.2f} ms")
        figures = anyio.run(measure, options.url or f"sqlite:///{folder}/log.sqlite", options, folder)
    database = parse_url(options.url).get_backend_name() if options.url else "sqlite"
    figures = {"database": database, "bare_fsync_ms": round(bare, 2), "records": options.records, **figures}
    finish("log", figures, seed=options.seed, out=options.out)


if __name__ == "__main__":
    main()
