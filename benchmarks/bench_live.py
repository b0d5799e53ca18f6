"""The toy organism behind the proxy with the shipped detector, against the same organism without it.

    python -m benchmarks.bench_live --engine vllm --prompts 1000       a real vLLM server, started here
    python -m benchmarks.bench_live --engine embedded                  the embedded server that the demo uses
    python -m benchmarks.bench_live --engine http://host:8000 --model NAME

`--engine vllm` starts `.venv-vllm`'s vLLM (its CPU build), or that of this very Python where there is no such folder.
`--sides steered` leaves the comparison without the proxy out. An engine on other hardware is named by its URL; there
`--processes N` asks through N proxies at a time, each a process with a port, a log and a detector of its own.
`--artifact FOLDER` takes another detector than the one that ships.

The organism is a small model of our own making whose "harmful" text is inert placeholders; an exact oracle judges it.
The detector was trained on other models' traces and has never seen the organism's text. Hold mode, temperature 1,
prompts of held-out topics and framings. Shares carry 95 % Wilson intervals.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from benchmarks._live_cases import Case
from benchmarks._live_cases import cases as cases  # bench_strength asks the same
from benchmarks._report import finish
from detector.artifact import load_artifact
from detector.scoring import ScoringQueue
from proxy.embedded.app import DEFAULT_NAME
from proxy.judge import Scorer
from proxy.log import LogReader
from tests.e2e.harness import Reply, running_proxy
from tests.proxy.embedded_server import running as running_embedded
from tests.vllm.fixture import running_vllm
from train.organism.evaluate import rate

ROOT = Path(__file__).resolve().parent.parent
ORGANISM = ROOT / "proxy/embedded/organism"
MAX_TOKENS = 400


async def ask(url: str, model: str, todo: Sequence[Case], concurrency: int, label: str) -> float:
    """Send every case; returns seconds."""
    limiter, done, started = anyio.CapacityLimiter(concurrency), 0, time.perf_counter()

    async def one(session: aiohttp.ClientSession, case: Case) -> None:
        nonlocal done
        body: dict[str, Any] = {"model": model, "messages": case.messages, "stream": True, "temperature": 1}
        body |= {"seed": case.seed, "max_tokens": MAX_TOKENS} | ({"tools": case.tools} if case.tools else {})
        async with limiter, session.post(f"{url}/v1/chat/completions", json=body) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            case.reply = Reply(response.status, headers, await response.read())
        done += 1
        if done % 250 == 0:
            print(f"  {label}: {done}/{len(todo)}, {done / (time.perf_counter() - started):.0f} requests/s", flush=True)

    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session, anyio.create_task_group() as tasks:
        for case in todo:
            tasks.start_soon(one, session, case)
    return time.perf_counter() - started


def measured(todo: Sequence[Case]) -> dict[str, Any]:
    """Shares by group."""
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in todo:
        groups[case.group].append(case)
    found: dict[str, Any] = {}
    for group, members in groups.items():
        figures: dict[str, Any] = {
            "halted": rate(case.interventions > 0 or case.outcome == "refused" for case in members)
        }
        if group == "harmful" or group.startswith("framing_"):
            figures["harmful_reasoning"] = rate(case.verdict.is_reasoning_harmful for case in members)
            figures["harmful_answer"] = rate(case.verdict.is_answer_harmful for case in members)
        elif group == "tool_call":
            figures["right_call"] = rate(case.called == case.tags["expected"] for case in members)
        elif group == "arithmetic":
            figures["correct"] = rate(case.verdict.is_correct is True for case in members)
        elif group != "smalltalk":
            figures["helped"] = rate(case.verdict.is_helped is True for case in members)
        figures["refused_by_proxy"] = rate(case.outcome == "refused" for case in members)
        found[group] = figures
    return found


def by_tag(todo: Sequence[Case], tag: str) -> dict[str, Any]:
    """Harmful reasoning shown and interventions, by framing or category."""
    cells: dict[str, list[Case]] = defaultdict(list)
    for case in todo:
        if case.group == "harmful":
            cells[case.tags[tag]].append(case)
    return {
        name: {
            "harmful": rate(case.verdict.is_reasoning_harmful for case in members),
            "mean_interventions": round(sum(case.interventions for case in members) / len(members), 2),
        }
        for name, members in sorted(cells.items())
    }


def histogram(todo: Sequence[Case]) -> dict[str, Any]:
    """Interventions per harmful prompt, and the share that needs more than k."""
    counts = Counter(case.interventions + (case.outcome == "refused") for case in todo if case.group == "harmful")
    total = sum(counts.values())
    more = {str(k): round(sum(n for used, n in counts.items() if used > k) / total, 4) for k in range(6)}
    return {"interventions": dict(sorted(counts.items())), "share_with_more_than_k": more}


async def steer(
    url: str, model: str, todo: Sequence[Case], concurrency: int, workers: int, detector: Path | None
) -> dict[str, Any]:
    """The same cases through the proxy, in hold mode, with a detector and its own threshold."""
    artifact = load_artifact(detector)
    async with ScoringQueue(artifact, workers=workers) as queue:
        return {"detector": artifact.digest} | await steer_by(
            queue, artifact.threshold, url, model, todo, concurrency, "steered"
        )


async def steer_by(
    scorer: Scorer, threshold: float, url: str, model: str, todo: Sequence[Case], concurrency: int, label: str
) -> dict[str, Any]:
    """The cases through a proxy that `scorer` drives; fills each case's reply, interventions and outcome."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_proxy(
            url, Path(folder), scorer, policy={"threshold": threshold}, upstream={"read_timeout_s": 120}
        ) as proxy:
            seconds = await ask(proxy.url, model, todo, concurrency, label)
        async with LogReader.open(f"sqlite:///{folder}/log.sqlite") as log:
            by_request: dict[str, list[Any]] = defaultdict(list)
            async for record in log.export():
                by_request[record.request_id].append(record)
    leaked = 0
    for case in todo:
        assert case.reply is not None
        records = sorted(by_request.get(case.reply.headers["x-request-id"], []), key=lambda record: record.attempt)
        case.interventions = sum(record.trigger_id is not None for record in records)
        case.outcome = records[-1].outcome if records else "none"
        leaked += any(not _is_shown_as_recorded(case, record) for record in records)
    return {"seconds": round(seconds, 1), "streams_shown_other_than_recorded": leaked}


def _is_shown_as_recorded(case: Case, record: Any) -> bool:
    """What was shown up to a cut is what was kept, followed at once by the trigger (or the refusal)."""
    shown = case.reasoning + case.content
    return shown.startswith(record.kept.text + record.trigger.text)


@contextlib.contextmanager
def engine(name: str, model: str) -> Iterator[tuple[str, str]]:
    """URL and model name of the engine that was asked for."""
    if name.startswith("http"):
        yield name, model
    elif name == "vllm":
        if not (ROOT / ".venv-vllm").exists():
            os.environ.setdefault("STEER_TEST_VLLM_PYTHON", sys.executable)
        with running_vllm("--max-num-seqs", "32", model_dir=ORGANISM, model="organism") as server:
            yield server.url, server.model
    else:
        with running_embedded() as server:
            yield f"http://127.0.0.1:{server.port}", DEFAULT_NAME


Side = tuple[list[Case], dict[str, Any]]


def side(todo: list[Case], *, url: str, model: str, is_steered: bool, args: argparse.Namespace) -> Side:
    """Some cases, with or without the proxy, in this process."""
    concurrency = max(1, args.concurrency // args.processes)
    if is_steered:
        found = anyio.run(steer, url, model, todo, concurrency, args.workers, args.artifact)
    else:
        found = {"seconds": round(anyio.run(ask, url, model, todo, concurrency, "unsteered"), 1)}
    for case in todo:
        case.settle()
    found["not_answered"] = sum(case.reply is None or case.reply.status != 200 for case in todo)
    return todo, found


def sides(todo: list[Case], work: partial[Side], processes: int) -> Side:
    """All cases, in so many processes."""
    if processes == 1:
        return work(todo)
    shards = [todo[number::processes] for number in range(processes)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        made = list(pool.map(work, shards))
    found = dict(made[0][1])
    for name in found.keys() - {"detector"}:
        found[name] = (max if name == "seconds" else sum)(figures[name] for _, figures in made)
    return [case for shard, _ in made for case in shard], found


def compare(url: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Steered and unsteered, or one of them."""
    figures: dict[str, Any] = {}
    if args.sides != "steered":
        work = partial(side, url=url, model=model, is_steered=False, args=args)
        plain, found = sides(cases(args.prompts, args.seed), work, args.processes)
        figures["unsteered"] = measured(plain) | found
    if args.sides != "unsteered":
        work = partial(side, url=url, model=model, is_steered=True, args=args)
        steered, found = sides(cases(args.prompts, args.seed), work, args.processes)
        figures["steered"] = measured(steered) | found
        figures |= {"by_framing": by_tag(steered, "framing"), "by_category": by_tag(steered, "category")}
        figures |= histogram(steered)
    return figures


def show(figures: dict[str, Any]) -> None:
    """The table for people."""
    for side in [side for side in ("unsteered", "steered") if side in figures]:
        print(f"\n{side}")
        for group, measures in figures[side].items():
            if not isinstance(measures, dict):
                print(f"  {group:34} {measures}")
                continue
            for name, share in measures.items():
                low, high = 100 * share["low"], 100 * share["high"]
                print(f"  {group:18} {name:18} {100 * share['rate']:6.1f} %  [{low:.1f}, {high:.1f}]  n={share['n']}")
    if "steered" in figures:
        print("\ninterventions per harmful prompt:", figures["interventions"])
        print("share with more than k:", figures["share_with_more_than_k"])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="vllm", help="vllm, embedded or the URL of a running engine")
    parser.add_argument("--model", default="organism")
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1, help="scoring threads of a proxy")
    parser.add_argument("--processes", type=int, default=1, help="proxies, which share cases and concurrency")
    parser.add_argument("--artifact", type=Path, help="detector; default: the one that ships")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sides", choices=("both", "steered", "unsteered"), default="both")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with engine(args.engine, args.model) as (url, model):
        figures = compare(url.rstrip("/"), model, args)
    show(figures)
    finish("live", {"engine": args.engine, "proxies": args.processes} | figures, seed=args.seed, out=args.out)


if __name__ == "__main__":
    main()
