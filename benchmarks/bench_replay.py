"""Recorded reasoning traces through the live path: scripted engine, proxy, shipped detector, hold mode.

    python -m benchmarks.bench_replay --traces traces.jsonl [--limit N] [--tokens-per-frame 3]

Each trace (one JSON object a line with `id`, `prompt` or `messages`, `reasoning`) is streamed by a scripted engine on
a real socket as token frames. Measured: whether everything that the client was shown before the first trigger ends
before the segment that was flagged; whether the live cut is where `steer detect` finds the first cue offline; and the
time from a complete segment to its verdict, under this load. Nothing of a trace is printed.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio

from benchmarks._report import finish
from detector.artifact import load_artifact
from detector.detect import detect_file
from detector.scoring import ScoringQueue
from proxy.log import LogReader
from steer.record import InterventionRecord
from steer.triggers import DEFAULT_TRIGGERS
from tests.e2e.harness import Reply, running_proxy
from tests.upstream.script import Generation, Script, Trace
from tests.upstream.server import ScriptedUpstream


def load(path: Path, limit: int | None) -> list[dict[str, Any]]:
    """Traces with reasoning, in file order."""
    with path.open(encoding="utf-8") as lines:
        traces = [json.loads(line) for line in lines]
    return [trace for trace in traces if trace["reasoning"].strip()][:limit]


def offline_cuts(traces: list[dict[str, Any]]) -> dict[str, int | None]:
    """Where `steer detect` finds each trace's first cue, as a character offset; None without one."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.jsonl", Path(folder) / "out.jsonl"
        source.write_text("".join(json.dumps(trace) + "\n" for trace in traces), encoding="utf-8")
        detect_file(source, target)
        results = [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]
    return {result["id"]: result["first_cue"] and result["first_cue"]["start"] for result in results}


def messages_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a trace."""
    return trace.get("messages") or [{"role": "user", "content": trace["prompt"]}]


def before_first_trigger(reply: Reply) -> str:
    """Reasoning shown before the first trigger; all of it where there was none."""
    shown = reply.reasoning
    starts = [at for trigger in DEFAULT_TRIGGERS if (at := shown.find(trigger.text)) >= 0]
    return shown[: min(starts)] if starts else shown


async def replay(traces: list[dict[str, Any]], tokens_per_frame: int, concurrency: int) -> dict[str, Any]:
    """All traces through one proxy."""
    by_number = {str(number): trace for number, trace in enumerate(traces)}

    def script(generation: Generation) -> Trace:
        return Trace(by_number[generation.body["user"]]["reasoning"], "\n\nDone.")

    artifact = load_artifact()
    replies: dict[str, Reply] = {}
    with tempfile.TemporaryDirectory() as folder:
        upstream = ScriptedUpstream(
            Script(
                trace=lambda generation: Trace("\nx", "x") if generation.is_probe else script(generation),
                tokens_per_frame=tokens_per_frame,
                opens_think=True,
                max_model_len=None,
            )
        )
        policy = {"threshold": artifact.threshold}
        async with upstream, ScoringQueue(artifact) as queue:
            async with running_proxy(upstream.url, Path(folder), queue, policy=policy) as proxy:
                limiter = anyio.CapacityLimiter(concurrency)

                async def one(number: str, trace: dict[str, Any]) -> None:
                    async with limiter:
                        replies[number] = await proxy.chat(
                            messages=messages_of(trace), user=number, steer={"show_interventions": True}
                        )
                        if len(replies) % 100 == 0:
                            print(f"  {len(replies)}/{len(traces)} traces")

                started = time.perf_counter()
                async with anyio.create_task_group() as tasks:
                    for number, trace in by_number.items():
                        tasks.start_soon(one, number, trace)
                seconds = time.perf_counter() - started
            async with LogReader.open(f"sqlite:///{proxy.database}") as log:
                records = [record async for record in log.export()]
    return judge(by_number, replies, records) | {"seconds": round(seconds, 1)}


def judge(
    traces: dict[str, dict[str, Any]], replies: dict[str, Reply], records: list[InterventionRecord]
) -> dict[str, Any]:
    """The figures."""
    first = {record.request_id: record for record in records if record.attempt == 0}
    cuts = offline_cuts(list(traces.values()))
    late = agree = halted = failed = unjudged = 0
    for number, trace in traces.items():
        reply = replies[number]
        failed += not (reply.status == 200 and reply.is_complete)
        unjudged += any(event.get("cause") == "detector_failure" for event in reply.told)
        record = first.get(reply.headers.get("x-request-id", ""))
        live = None if record is None else len(record.kept.text)
        agree += live == cuts[trace["id"]]
        if live is not None:
            halted += 1
            late += before_first_trigger(reply).rstrip(" ") != trace["reasoning"][:live].rstrip(" ")
    verdicts = [record.timings.verdict_ms for record in records if record.timings.verdict_ms is not None]
    return {
        "traces": len(traces),
        "halted": halted,
        "shown_beyond_the_flagged_sentence": late,
        "live_cut_equals_offline": agree,
        "agreement": round(agree / len(traces), 4),
        "streams_not_ended_properly": failed,
        "streams_with_an_unjudged_segment": unjudged,
        "verdict_ms_p50": round(statistics.median(verdicts), 2) if verdicts else None,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--tokens-per-frame", type=int, default=2)
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    traces = load(args.traces, args.limit)
    print(f"{len(traces)} traces:")
    figures = anyio.run(replay, traces, args.tokens_per_frame, args.concurrency)
    for name, value in figures.items():
        print(f"  {name:36} {value}")
    finish("replay", figures, seed=None, out=args.out)


if __name__ == "__main__":
    main()
