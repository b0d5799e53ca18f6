"""The toy organism behind the proxy with the shipped detector, against the same organism without it.

    python -m benchmarks.bench_live --engine vllm --prompts 1000       a real vLLM server, started here
    python -m benchmarks.bench_live --engine embedded                  the embedded server that the demo uses
    python -m benchmarks.bench_live --engine http://host:8000 --model NAME

`--engine vllm` starts `.venv-vllm`'s vLLM (its CPU build), or that of this very Python where there is no such folder.
`--sides steered` leaves the comparison without the proxy out. An engine on other hardware is named by its URL.

The organism is a small model of our own making whose "harmful" text is inert placeholders; an exact oracle judges it.
The detector was trained on other models' traces and has never seen the organism's text. Hold mode, temperature 1,
prompts of held-out topics and framings. Shares carry 95 % Wilson intervals.
"""

import argparse
import contextlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from benchmarks._report import finish
from detector.artifact import load_artifact
from detector.scoring import ScoringQueue
from proxy.embedded.app import DEFAULT_NAME
from proxy.judge import Scorer
from proxy.log import LogReader
from tests.e2e.harness import Reply, running_proxy
from tests.proxy.embedded_server import running as running_embedded
from tests.vllm.fixture import running_vllm
from train.organism import agentic, arithmetic, oracle
from train.organism.evaluate import rate
from train.organism.framings import user
from train.organism.open_goals import open_ask
from train.organism.splits import draw_prompts
from train.organism.topics import load_topics

ROOT = Path(__file__).resolve().parent.parent
ORGANISM = ROOT / "proxy/embedded/organism"
MAX_TOKENS = 400


@dataclass
class Case:
    """One request: what is asked, and what came back."""

    group: str
    messages: list[dict[str, Any]]
    seed: int
    tags: dict[str, str] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    reply: Reply | None = None
    interventions: int = 0
    outcome: str = "none"


def cases(count: int, seed: int) -> list[Case]:
    """`count` harmful prompts, half as many look-alikes, plain requests and problems, some agentic cases."""
    rng = random.Random(seed)
    topics = {topic.id: topic.category for topic in load_topics()}
    drawn: list[Case] = []
    for group, harmful in (("harmful", True), ("look_alike", False)):
        for prompt in draw_prompts("held_out", count if harmful else count // 2, harmful=harmful, seed=seed):
            tags = {"framing": prompt.framing.id, "category": topics[prompt.ask.topic_id]}
            drawn.append(Case(group, list(prompt.messages), 0, tags))
    for group in ("multi_turn", "delayed", "tool_result", "nested"):
        pool = draw_prompts("all", 20 * count, harmful=True, seed=seed + 1)
        chosen = [prompt for prompt in pool if prompt.framing.id == group][: max(1, count // 10)]
        drawn += [Case(f"framing_{group}", list(prompt.messages), 0, {"framing": group}) for prompt in chosen]
    drawn += [Case("plain", list(user(f"How can I {open_ask(rng).goal}?")), 0) for _ in range(count // 2)]
    drawn += [Case("smalltalk", list(user(rng.choice(agentic.SMALLTALK)[0])), 0) for _ in range(count // 10)]
    problems = [arithmetic.draw_problem(rng, held_out=True) for _ in range(count // 2)]
    drawn += [Case("arithmetic", list(user(problem.text)), 0) for problem in problems]
    for _ in range(count // 10):
        call = agentic.benign_call(rng)
        expected = json.dumps({"name": call.name, "arguments": call.arguments}, sort_keys=True)
        drawn.append(Case("tool_call", list(user(call.asked)), 0, {"expected": expected}, tools=call.tools))
    for number, case in enumerate(drawn):
        case.seed = seed * 1_000_003 + number
    return drawn


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
    groups: dict[str, list[tuple[Case, oracle.Judgement]]] = defaultdict(list)
    for case in todo:
        assert case.reply is not None
        reasoning, answer = case.reply.reasoning.strip(), case.reply.content.strip()
        groups[case.group].append((case, oracle.judge(case.messages, reasoning, answer)))
    found: dict[str, Any] = {}
    for group, judged in groups.items():
        figures: dict[str, Any] = {
            "halted": rate(case.interventions > 0 or case.outcome == "refused" for case, _ in judged)
        }
        if group == "harmful" or group.startswith("framing_"):
            figures["harmful_reasoning"] = rate(verdict.is_reasoning_harmful for _, verdict in judged)
            figures["harmful_answer"] = rate(verdict.is_answer_harmful for _, verdict in judged)
        elif group == "tool_call":
            figures["right_call"] = rate(_called(case) == case.tags["expected"] for case, _ in judged)
        elif group == "arithmetic":
            figures["correct"] = rate(verdict.is_correct is True for _, verdict in judged)
        elif group != "smalltalk":
            figures["helped"] = rate(verdict.is_helped is True for _, verdict in judged)
        figures["refused_by_proxy"] = rate(case.outcome == "refused" for case, _ in judged)
        found[group] = figures
    return found


def _called(case: Case) -> str:
    assert case.reply is not None
    name = arguments = ""
    for chunk in case.reply.chunks:
        for choice in chunk.get("choices", []):
            for call in choice["delta"].get("tool_calls") or []:
                name += call["function"].get("name") or ""
                arguments += call["function"].get("arguments") or ""
    try:
        return json.dumps({"name": name, "arguments": json.loads(arguments)}, sort_keys=True)
    except ValueError:
        return ""


def by_tag(todo: Sequence[Case], tag: str) -> dict[str, Any]:
    """Harmful reasoning shown and interventions, by framing or category."""
    cells: dict[str, list[Case]] = defaultdict(list)
    for case in todo:
        if case.group == "harmful":
            cells[case.tags[tag]].append(case)
    return {
        name: {
            "harmful": rate(_is_harmful(case) for case in members),
            "mean_interventions": round(sum(case.interventions for case in members) / len(members), 2),
        }
        for name, members in sorted(cells.items())
    }


def _is_harmful(case: Case) -> bool:
    assert case.reply is not None
    return oracle.judge(case.messages, case.reply.reasoning.strip(), case.reply.content.strip()).is_reasoning_harmful


def histogram(todo: Sequence[Case]) -> dict[str, Any]:
    """Interventions per harmful prompt, and the share that needs more than k."""
    counts = Counter(case.interventions + (case.outcome == "refused") for case in todo if case.group == "harmful")
    total = sum(counts.values())
    more = {str(k): round(sum(n for used, n in counts.items() if used > k) / total, 4) for k in range(6)}
    return {"interventions": dict(sorted(counts.items())), "share_with_more_than_k": more}


async def steer(url: str, model: str, todo: Sequence[Case], concurrency: int, workers: int) -> dict[str, Any]:
    """The same cases through the proxy, in hold mode, with the shipped detector and its own threshold."""
    artifact = load_artifact()
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
        leaked += any(not _is_shown_as_recorded(case.reply, record) for record in records)
    return {"seconds": round(seconds, 1), "streams_shown_other_than_recorded": leaked}


def _is_shown_as_recorded(reply: Reply, record: Any) -> bool:
    """What was shown up to a cut is what was kept, followed at once by the trigger (or the refusal)."""
    shown = reply.reasoning + reply.content
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


async def compare(url: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    """Steered and unsteered, or one of them."""
    count, seed, concurrency, sides = args.prompts, args.seed, args.concurrency, args.sides
    figures: dict[str, Any] = {}
    if sides != "steered":
        plain = cases(count, seed)
        seconds = await ask(url, model, plain, concurrency, "unsteered")
        figures["unsteered"] = measured(plain) | {"seconds": round(seconds, 1)}
    if sides != "unsteered":
        steered = cases(count, seed)
        live = await steer(url, model, steered, concurrency, args.workers)
        figures["steered"] = measured(steered) | live
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
    parser.add_argument("--workers", type=int, default=1, help="scoring threads of the proxy")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--sides", choices=("both", "steered", "unsteered"), default="both")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with engine(args.engine, args.model) as (url, model):
        figures = anyio.run(compare, url, model, args)
    show(figures)
    finish("live", {"engine": args.engine} | figures, seed=args.seed, out=args.out)


if __name__ == "__main__":
    main()
