"""Two proxies, one log, one engine: a version goes into canary, is promoted and rolled back under 1,000 requests.

    python -m benchmarks.bench_proxies --engine vllm --postgres postgresql+psycopg://…      a real vLLM, started here
    python -m benchmarks.bench_proxies --engine scripted        the tests' upstream, and SQLite where no server is named

Every conversation is asked of both proxies, a few at a time. A third of all sentences is taken for a cue, so that
streams are halted and resume. What is told: requests without a whole answer, without exactly one row in the log, or
whose records and resumes name another version than their answer; conversations with two versions; and how long each
proxy went on with the old route after a change. The proxies share a process, and nothing in it but the event loop.
"""

import argparse
import contextlib
import time
import uuid
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
from sqlalchemy import create_engine, make_url, select

from benchmarks._report import finish
from proxy.adapters import changes
from proxy.adapters.changes import NewAdapter
from proxy.adapters.registry import AdapterRegistry
from proxy.log import LogReader
from proxy.log.tables import requests
from steer.record import InterventionRecord
from tests.e2e.harness import Reply, RunningProxy, TableScorer, running_proxy
from tests.proxy.lora_upstream import LoraUpstream
from tests.upstream import Generation, Script, Trace
from tests.vllm.spy import spying

ALIAS = "public"
LIMIT_S = 5.0  # within which every proxy must have seen a change
AT_A_TIME = 6


@dataclass
class Asked:
    """One request of a conversation: by which proxy, and when."""

    number: int
    proxy: int
    began: float = 0.0
    ended: float = 0.0
    reply: Reply = field(default_factory=lambda: Reply(0, {}, b""))

    @property
    def id(self) -> str:
        return self.reply.headers.get("x-request-id", "")

    @property
    def adapter(self) -> str:
        return self.reply.headers.get("x-steer-adapter", "base")

    @property
    def is_whole(self) -> bool:
        reply = self.reply
        return reply.status == 200 and reply.is_complete and len(reply.finish_reasons) == 1


def is_cue(text: str) -> float:
    """A third of all sentences, whatever a random model may say."""
    return 0.9 if zlib.crc32(text.strip().encode()) % 3 == 0 else 0.1


@contextmanager
def engine_of(name: str, folder: Path) -> Iterator[tuple[str | None, str, list[str]]]:
    """(URL, model, places of two adapters); no URL: the scripted upstream, which must run in this loop."""
    if name == "scripted":
        yield None, "scripted", ["/files/1", "/files/2"]
        return
    from tests.train.test_adapters import random_adapter  # noqa: PLC0415 - torch, for a real engine alone
    from tests.vllm.fixture import running_vllm  # noqa: PLC0415

    # A prompt read in parts, with a seed, ends vLLM 0.32 on a CPU.
    with running_vllm("--max-num-batched-tokens", "65536") as server:
        assert server.model_dir is not None
        places = [str(random_adapter(server.model_dir, folder / f"{n}", seed=n)) for n in (1, 2)]
        yield server.url, server.model, places


def says(generation: Generation) -> Trace:
    """Sentences that differ by prompt."""
    return Trace(f"\nFirst {hash(generation.prompt_text) % 97}. Then {len(generation.prompt_ids)}. So.\n", "\n\nFine.")


@asynccontextmanager
async def upstream_of(url: str | None) -> AsyncIterator[str]:
    if url is not None:
        yield url
        return
    async with LoraUpstream(Script(trace=says, opens_think=True)) as upstream:
        yield upstream.url


@contextmanager
def database(postgres: str | None, folder: Path) -> Iterator[str]:
    if postgres is None:
        yield f"sqlite:///{folder}/log.sqlite"
        return
    name, admin = f"steer_{uuid.uuid4().hex}", create_engine(postgres, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.exec_driver_sql(f"create database {name}")
    try:
        yield make_url(postgres).set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"drop database {name} with (force)")
        admin.dispose()


class Run:
    """The changes, and the requests around them."""

    def __init__(self, registry: AdapterRegistry, proxies: list[RunningProxy], count: int) -> None:
        self.registry, self.proxies = registry, proxies
        self.asked = [Asked(number // 2, number % 2) for number in range(count)]
        self.changed: dict[str, float] = {}

    async def ask(self, one: Asked) -> None:
        one.began = time.monotonic()
        body: dict[str, Any] = {"temperature": 1, "seed": one.number, "max_tokens": 96}
        one.reply = await self.proxies[one.proxy].chat(f"question {one.number}", model=ALIAS, **body)
        one.ended = time.monotonic()

    async def serve(self) -> None:
        """All requests, a few at a time; a change at each quarter."""
        quarter = len(self.asked) // 4
        steps: dict[int, tuple[str, Callable[[Any], Any]]] = {
            quarter: ("canary", lambda c: changes.start_canary(c, "safe@2", 0.5, "bench", None)),
            2 * quarter: ("promote", lambda c: changes.promote(c, "safe@2", "bench", None)),
            3 * quarter: ("roll back", lambda c: changes.roll_back(c, ALIAS, "bench", "regressed")),
        }
        todo = iter(enumerate(self.asked))

        async def work() -> None:
            for number, one in todo:
                if number in steps:
                    name, change = steps[number]
                    await anyio.to_thread.run_sync(self.registry.change, change)
                    self.changed[name] = time.monotonic()
                await self.ask(one)

        async with anyio.create_task_group() as tasks:
            for _ in range(AT_A_TIME):
                tasks.start_soon(work)

    def late(self, name: str, old: Callable[[str], bool], until: float) -> list[float]:
        """For each proxy, how long after a change it still began a request on what the route no longer says."""
        since = self.changed[name]
        return [
            max(
                (one.began - since for one in self.asked if one.proxy == proxy and since <= one.began < until
                 and old(one.adapter)), default=0.0,
            )
            for proxy in (0, 1)
        ]  # fmt: skip

    def first(self, name: str, new: str) -> list[float | None]:
        """For each proxy, when after a change the first request that a version served had begun."""
        since = self.changed[name]
        found: list[float | None] = []
        for proxy in (0, 1):
            began = [
                one.began - since
                for one in self.asked
                if one.proxy == proxy and one.adapter == new and one.began >= since
            ]
            found.append(min(began, default=None))
        return found

    def torn(self) -> int:
        """Conversations with two versions though both requests lay between two changes, and after the limit."""
        spans = [*self.changed.values(), float("inf")]
        torn = 0
        for one, other in zip(self.asked[::2], self.asked[1::2], strict=True):
            for begun, over in zip([0.0, *spans], spans, strict=False):
                inside = all(begun + LIMIT_S <= each.began and each.ended < over for each in (one, other))
                torn += inside and one.adapter != other.adapter
        return torn


def misnamed(run: Run, records: list[InterventionRecord], legs: list[Any]) -> dict[str, int]:
    """Records and resumes that name another version than the answer does."""
    by_id = {one.id: one for one in run.asked}
    wrong = [r for r in records if r.request_id in by_id and (r.adapter or "base") != by_id[r.request_id].adapter]
    resumes = [leg for leg in legs if leg.path != "/v1/chat/completions"]
    owners: dict[tuple[int, ...], set[str]] = {}
    for r in records:  # a resume goes on from exactly what its record says
        prefix = (*(r.prompt_token_ids or ()), *(r.kept.token_ids or ()), *(r.trigger.token_ids or ()))
        owners.setdefault(prefix, set()).add(r.adapter or r.model)
    strange = [leg for leg in resumes if leg.body["model"] not in owners.get(tuple(leg.prefix), set())]
    return {
        "records": len(records), "wrong_records": len(wrong), "resumes": len(resumes), "wrong_resumes": len(strange),
    }  # fmt: skip


async def measure(args: argparse.Namespace, url: str | None, model: str, places: list[str], log: str, out: Path) -> Any:
    async with contextlib.AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(upstream_of(url))
        registry = stack.enter_context(AdapterRegistry.open(log))
        for number, place in enumerate(places, 1):
            new = NewAdapter("safe", ALIAS, model, place, f"{number}", {}, {"promotes": True})
            registry.change(lambda c, new=new: changes.register(c, new, "bench"))  # type: ignore[misc]
        registry.change(lambda c: changes.promote(c, "safe@1", "bench", None))
        spy = stack.enter_context(spying())
        sections: dict[str, Any] = {"log": {"url": log}, "upstream": {"read_timeout_s": 300.0}}
        proxies = [
            await stack.enter_async_context(running_proxy(upstream, out, TableScorer(is_cue), **sections))
            for _ in range(2)
        ]
        run, started = Run(registry, proxies, args.requests), time.monotonic()
        await run.serve()
        wall_s = time.monotonic() - started
        rows = registry.read(lambda c: c.execute(select(requests.c.request_id)).scalars().all())
        async with LogReader.open(log) as reader:
            records = [record async for record in reader.export()]
        legs = spy.take()
    counted, ends = Counter(rows), [*run.changed.values(), float("inf")]
    return {
        "engine": args.engine, "database": log.partition(":")[0], "requests": len(run.asked), "proxies": 2,
        "not_whole": sum(not one.is_whole for one in run.asked),
        "not_once_in_the_log": sum(counted[one.id] != 1 for one in run.asked),
        "records_open": sum(record.outcome == "open" for record in records),
        "served_by": dict(Counter(one.adapter for one in run.asked)),
        "halted_requests": len({record.request_id for record in records}),
        **misnamed(run, records, legs),
        "torn_conversations": run.torn(),
        "seen_after_s": {
            "canary": run.first("canary", "safe@2"),
            "promoted": run.late("promote", lambda name: name == "safe@1", ends[2]),
            "rolled back": run.late("roll back", lambda name: name == "safe@2", ends[3]),
        },
        "wall_s": round(wall_s, 1), "requests_per_s": round(len(run.asked) / wall_s, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["vllm", "scripted"], default="scripted")
    parser.add_argument("--postgres", help="SQLAlchemy URL of a server where a database may be made; default: SQLite")
    parser.add_argument("--requests", type=int, default=1000, help="a multiple of 8")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with TemporaryDirectory(prefix="steer-proxies-") as name:
        folder = Path(name)
        with engine_of(args.engine, folder) as (url, model, places), database(args.postgres, folder) as log:
            figures = anyio.run(measure, args, url, model, places, log, folder)
    for key, value in figures.items():
        print(f"{key:22s} {value}")
    finish("proxies", figures, seed=0, out=args.out)


if __name__ == "__main__":
    main()
