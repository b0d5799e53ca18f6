"""What a scorer is worth on labelled traces: thresholds for one false-halt budget, first cues, false halts, latency.

Scores are kept trace by trace in a JSONL file, so that a killed run goes on where it stopped; a line that a kill cut
short is read as not there. Each segment is asked for alone and in order, as the proxy asks, after `prepare`.
"""

import hashlib
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from detector.context import Context
from detector.errors import DetectorError
from proxy.judge import Scorer
from train.detector.config import DataConfig
from train.detector.data import Trace, label_segments
from train.detector.metrics import Scored, choose_threshold, cue_report, halted


class Timed(NamedTuple):
    """A scored trace, milliseconds per segment (wall and this process's CPU), of the request alone, and failures."""

    item: Scored
    wall_ms: list[float]
    cpu_ms: list[float]
    request_ms: float
    unanswered: int


def group_of(trace: Trace, data: DataConfig) -> str:
    """complying, refusing (harmful prompt, no cue), ordinary, borderline or other benign."""
    if "C" in trace.labels:
        return "complying"
    if trace.prompt_label == "harmful":
        return "refusing"
    if trace.source in data.ordinary_sources:
        return "ordinary"
    return "borderline" if trace.source in data.borderline_sources else "other_benign"


def drawn(traces: Sequence[Trace], limit: int | None, data: DataConfig) -> list[Trace]:
    """All of them, or at most `limit`, as many of each group as can be; which ones depends on their ids alone."""
    if limit is None or len(traces) <= limit:
        return list(traces)
    groups: dict[str, list[Trace]] = defaultdict(list)
    for trace in sorted(traces, key=lambda trace: hashlib.sha256(trace.id.encode()).hexdigest()):
        groups[group_of(trace, data)].append(trace)
    chosen: list[Trace] = []
    while len(chosen) < limit:
        for members in groups.values():
            if members and len(chosen) < limit:
                chosen.append(members.pop(0))
    return chosen


async def score_traces(scorer: Scorer, traces: Sequence[Trace], cache: Path, label: str) -> list[Timed]:
    """Every segment of every trace over its full length; a segment without a verdict counts as 0."""
    known = _read(cache)
    found = []
    with cache.open("a", encoding="utf-8") as sink:
        for trace in tqdm(traces, desc=label, mininterval=2.0):
            record = known.get(trace.id)
            if record is None:
                record = await _scored(scorer, trace)
                sink.write(json.dumps(record) + "\n")
                sink.flush()
            scores = [0.0 if score is None else score for score in record["scores"]]
            item = Scored(trace, label_segments(trace), scores)
            missing = sum(score is None for score in record["scores"])
            found.append(Timed(item, record["wall_ms"], record["cpu_ms"], record["request_ms"], missing))
    return found


def best_threshold(timed: Sequence[Timed], data: DataConfig, budget: float) -> dict[str, Any]:
    """The threshold that finds most first cues within one sentence while it halts at most `budget` of ordinary traces.

    `is_budget_kept` is False where no threshold keeps it: then it is the highest there is.
    """
    items = [entry.item for entry in timed]
    ordinary = [item for item in items if group_of(item.trace, data) == "ordinary"]
    threshold = choose_threshold(items, ordinary, (), budget, 1.0)
    return {
        "threshold": threshold,
        "is_budget_kept": halted(ordinary, threshold).share <= budget,
        "ordinary_halted": asdict(halted(ordinary, threshold)),
        "traces": len(items),
    }


def worth(timed: Sequence[Timed], data: DataConfig, threshold: float) -> dict[str, Any]:
    """First cues, halts by group, and latency, as plain data with 95 % Wilson intervals."""
    groups: dict[str, list[Scored]] = defaultdict(list)
    for entry in timed:
        groups[group_of(entry.item.trace, data)].append(entry.item)
    return {
        "threshold": threshold,
        "traces": len(timed),
        "complying": asdict(cue_report(groups.pop("complying", []), threshold)),
        "halted": {name: asdict(halted(items, threshold)) for name, items in sorted(groups.items())},
        "unanswered_segments": sum(entry.unanswered for entry in timed),
        "latency_ms": latency(timed),
    }


def latency(timed: Sequence[Timed]) -> dict[str, Any]:
    """p50 and p95 per segment; the request, read once per conversation, apart."""
    return {
        "segments": sum(len(entry.wall_ms) for entry in timed),
        "wall": _spread([ms for entry in timed for ms in entry.wall_ms]),
        "cpu": _spread([ms for entry in timed for ms in entry.cpu_ms]),
        "request_wall": _spread([entry.request_ms for entry in timed]),
    }


async def _scored(scorer: Scorer, trace: Trace) -> dict[str, Any]:
    messages = ({"role": "user", "content": trace.prompt},)
    began = time.perf_counter()
    await scorer.prepare(messages)
    request_ms = 1e3 * (time.perf_counter() - began)
    scores: list[float | None] = []
    wall_ms, cpu_ms = [], []
    for piece in label_segments(trace):
        context = Context(messages, trace.reasoning[: piece.start], trace.reasoning[piece.start : piece.end])
        began, cpu = time.perf_counter(), time.process_time()
        try:
            scores.append(round(await scorer.score(context), 5))
        except DetectorError:
            scores.append(None)
        wall_ms.append(round(1e3 * (time.perf_counter() - began), 3))
        cpu_ms.append(round(1e3 * (time.process_time() - cpu), 3))
    return {"id": trace.id, "scores": scores, "wall_ms": wall_ms, "cpu_ms": cpu_ms, "request_ms": round(request_ms, 3)}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):  # cut short by a kill: what follows must not be glued to it
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return {record["id"]: record for record in records}


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {"p50": round(statistics.median(ordered), 3), "p95": round(ordered[int(0.95 * (len(ordered) - 1))], 3)}
