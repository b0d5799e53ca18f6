"""The live path on a real vLLM server: leaks, resume prefixes, the halt-to-resume gap, and how fast a halt stops it.

    python -m benchmarks.bench_engine --requests 300           starts a CPU build of vLLM with a small random model
    python -m benchmarks.bench_engine --url http://host:8000 --model NAME

The model's weights are random and the cues are forced by a scripted scorer (a hash of the segment), at temperature 0
and 1 in turn: this measures the mechanism, not the detector. "Wrong prefix": an id of a resume differs from what the
engine itself was sent and sent back. "Leaked": the client was shown other reasoning than the text before each cut, the
trigger and what followed.
"""

import argparse
import contextlib
import hashlib
import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import anyio

from benchmarks._report import finish
from proxy.log import LogReader
from tests.e2e.harness import RunningProxy, TableScorer, running_proxy
from tests.vllm.fixture import running_vllm
from tests.vllm.spy import Leg, Spy, is_as_expected, spying

_QUESTION = "How many loaves does the baker need? " * 3
_LONG = "The baker asks about twelve loaves of bread, and the train leaves the station at seven. " * 8


def is_cue(text: str, share: float) -> bool:
    """A fixed share of all segments, chosen by their text alone."""
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF < share


class Engine:
    """The engine's own metrics."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def metric(self, name: str) -> float:
        """Sum of a counter over its labels."""
        async with aiohttp.ClientSession() as session, session.get(self._url + "/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def wrong_prefixes(legs: list[Leg]) -> int:
    """Resumes whose prefix is not prompt + a beginning of the leg before + a trigger, id by id."""
    wrong = 0
    for before, after in pairwise(legs):
        sent = before.prefix + before.token_ids
        common = next((n for n, (a, b) in enumerate(zip(sent, after.prefix, strict=False)) if a != b), None)
        kept = min(len(sent), len(after.prefix)) if common is None else common
        if kept < len(before.prefix) or len(after.prefix) <= kept:
            wrong += 1
    return wrong


async def cut_requests(
    proxy: RunningProxy, spy: Spy, model: str, count: int, share: float, seed: int
) -> dict[str, Any]:
    """`count` streamed requests, one after the other."""
    leaked = wrong = interventions = refused = 0
    for number in range(count):
        reply = await proxy.chat(
            _QUESTION,
            model=model,
            temperature=number % 2,
            seed=seed + number,
            max_tokens=120,
            steer={"show_interventions": True},
        )
        assert reply.status == 200, reply.raw[:300]
        assert reply.is_complete
        legs = spy.take()
        told = [event["trigger_id"] for event in reply.told if event["event"] == "intervention"]
        refused += reply.finish_reasons == ["content_filter"]
        leaked += not is_as_expected(reply.reasoning, legs, lambda text: is_cue(text, share), told)
        wrong += wrong_prefixes(legs)
        interventions += len(told)
        if (number + 1) % 25 == 0:
            print(f"  {number + 1}/{count}: {interventions} interventions, {leaked} leaks, {wrong} wrong prefixes")
    return {
        "requests": count,
        "interventions": interventions,
        "refused": refused,
        "streams_with_leaked_text": leaked,
        "wrong_resume_prefixes": wrong,
    }


async def gaps(proxy: RunningProxy, spy: Spy, engine: Engine, model: str, count: int) -> dict[str, Any]:
    """Cuts behind a prompt of several hundred tokens: verdict to first resumed text, against the decode step.

    Bound: a resume can't be faster than one decode step, so the ratio says how many steps a halt costs.
    """
    before = [await engine.metric(f"vllm:prefix_cache_{name}_total") for name in ("hits", "queries")]
    steps: list[float] = []
    request_ids = set()
    for number in range(count):
        reply = await proxy.chat(
            f"{number}. {_LONG}", model=model, temperature=1, seed=number, max_tokens=80, logprobs=False
        )
        assert reply.status == 200, reply.raw[:300]
        request_ids.add(reply.headers["x-request-id"])
        for leg in spy.take():
            steps += [1e3 * (b - a) for a, b in pairwise(leg.times) if b > a]
    after = [await engine.metric(f"vllm:prefix_cache_{name}_total") for name in ("hits", "queries")]
    async with LogReader.open(f"sqlite:///{proxy.database}") as log:
        timings = [
            record.completion.timings
            async for record in log.export()
            if record.request_id in request_ids and record.completion
        ]
    gap = [timing.resumed_ms - timing.halted_ms for timing in timings if timing.resumed_ms is not None]
    step = statistics.median(steps)
    return {
        "halt_to_resume_ms": _spread(gap),
        "decode_step_ms": round(step, 2),
        "halt_to_resume_in_decode_steps": round(statistics.median(gap) / step, 1),
        "prefix_cache_hit_share": round((after[0] - before[0]) / max(1, after[1] - before[1]), 3),
    }


async def stops(proxy: RunningProxy, engine: Engine, model: str, count: int) -> dict[str, Any]:
    """How long the engine's token counter still moves after the client has left, polled every 10 ms."""
    frozen_ms: list[float] = []
    for number in range(count):
        body = {
            "model": model,
            "messages": [{"role": "user", "content": _QUESTION}],
            "stream": True,
            "max_tokens": 1500,
            "seed": number,
            "temperature": 1,
            "ignore_eos": True,
        }
        async with aiohttp.ClientSession() as session:
            response = await session.post(f"{proxy.url}/v1/chat/completions", json=body)
            for _ in range(20):
                await response.content.readline()
            response.close()
        left = time.perf_counter()
        last, moved = await engine.metric("vllm:generation_tokens_total"), left
        while time.perf_counter() - moved < 0.5:
            await anyio.sleep(0.01)
            seen = await engine.metric("vllm:generation_tokens_total")
            if seen != last:
                last, moved = seen, time.perf_counter()
        frozen_ms.append(1e3 * (moved - left))
    return {"counter_frozen_after_client_left_ms": _spread(frozen_ms)}


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "n": len(ordered),
        "p50": round(statistics.median(ordered), 2),
        "max": round(ordered[-1], 2),
        "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 2),
    }


async def measure(url: str, model: str, args: argparse.Namespace) -> dict[str, Any]:
    """All of it, against one engine."""
    engine = Engine(url)
    with spying() as spy, tempfile.TemporaryDirectory() as folder:
        scorer = TableScorer(lambda text: 0.9 if is_cue(text, args.share) else 0.1)
        async with running_proxy(url, Path(folder), scorer, policy={"max_interventions": 3}) as proxy:
            print(f"cuts at random places, {args.requests} requests:")
            figures = await cut_requests(proxy, spy, model, args.requests, args.share, args.seed)
            print("halt to resume:")
            figures |= await gaps(proxy, spy, engine, model, args.gaps)
            print("clients that leave:")
            figures |= await stops(proxy, engine, model, args.stops)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running engine; default: start one")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--gaps", type=int, default=40)
    parser.add_argument("--stops", type=int, default=10)
    parser.add_argument("--share", type=float, default=0.15, help="share of segments that are cues")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url, model = args.url, args.model
        if url is None:
            server = stack.enter_context(running_vllm())
            url, model = server.url, server.model
        figures = anyio.run(measure, url, model, args)
    for name, value in figures.items():
        print(f"  {name:40} {value}")
    finish("engine", figures, seed=args.seed, out=args.out)


if __name__ == "__main__":
    main()
