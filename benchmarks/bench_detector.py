"""What a verdict costs: milliseconds per sentence on one core, tokenising and context included.

    python benchmarks/bench_detector.py [--artifact DIR] [--repeat 3] [--seed 0]

Prompts of 50, 400 and 2,000 tokens; sentences along a 5,000-token trace, by where in the trace they stand: the cost
must grow with neither. The request encoding, paid once per conversation beside generation, is timed apart.
The process is bound to one core; the thread's CPU time is timed, so that other work on the core doesn't count, and wall
time beside it. A table for people; the last line is one JSON document.
"""

import argparse
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import tokenizers

from detector.artifact import load_artifact
from detector.classifier import CueClassifier
from detector.context import Context, Message
from steer.segmenter import segment

PROMPT_TOKENS = (50, 400, 2000)
TRACE_TOKENS = 5000
TOKENS_PER_WORD = 1.2  # of English prose in this vocabulary; only the sizes of the inputs rest on it

_WORDS = [
    "the",
    "a",
    "of",
    "to",
    "and",
    "in",
    "that",
    "it",
    "is",
    "for",
    "with",
    "as",
    "on",
    "this",
    "be",
    "by",
    "are",
    "from",
    "at",
    "or",
    "an",
    "have",
    "not",
    "we",
    "can",
    "if",
    "which",
    "one",
    "you",
    "all",
    "there",
    "so",
    "when",
    "what",
    "about",
    "would",
    "time",
    "people",
    "could",
    "then",
    "than",
    "first",
    "also",
    "more",
    "after",
    "new",
    "should",
    "may",
    "these",
    "two",
    "how",
    "our",
    "work",
    "year",
    "think",
    "good",
    "look",
    "because",
    "need",
    "answer",
    "number",
    "question",
    "reason",
    "method",
    "point",
    "example",
    "number",
    "value",
    "step",
    "check",
    "sum",
    "total",
    "user",
    "asks",
    "wants",
    "consider",
    "perhaps",
    "maybe",
    "carefully",
    "simply",
    "again",
    "before",
    "between",
    "result",
    "formula",
    "water",
    "garden",
    "machine",
    "paper",
]


def prose(words: int, rng: random.Random) -> str:
    """Sentences of 6 to 30 words (reasoning traces: median 16), until `words` words are spent."""
    sentences = []
    while words > 0:
        length = min(words, max(6, min(30, round(rng.lognormvariate(2.75, 0.45)))))
        words -= length
        sentences.append(" ".join(rng.choices(_WORDS, k=length)).capitalize() + ".")
    return " ".join(sentences)


class Seconds(NamedTuple):
    """One measurement, or the difference of two."""

    cpu: float
    wall: float

    def since(self) -> "Seconds":
        """How long ago this was."""
        return Seconds(time.thread_time() - self.cpu, time.perf_counter() - self.wall)


def _now() -> Seconds:
    return Seconds(time.thread_time(), time.perf_counter())


def percentiles(seconds: list[Seconds]) -> dict[str, float]:
    """p50 and p95 of CPU and of wall time in milliseconds, and how many were measured."""
    cpu, wall = (np.array(values) * 1000 for values in zip(*seconds, strict=True))
    quantiles = {"p50_ms": (cpu, 0.5), "p95_ms": (cpu, 0.95), "wall_p50_ms": (wall, 0.5), "wall_p95_ms": (wall, 0.95)}
    return {name: round(float(np.quantile(values, q)), 3) for name, (values, q) in quantiles.items()} | {
        "count": len(seconds)
    }


def time_trace(classifier: CueClassifier, messages: tuple[Message, ...], reasoning: str) -> list[Seconds]:
    """Seconds for each sentence, in order; the request has been encoded before, as beside generation."""
    classifier.request_harm(messages)
    seconds = []
    for piece in segment(reasoning):
        started = _now()
        classifier.score([Context(messages, reasoning[: piece.start], reasoning[piece.start : piece.end])])
        seconds.append(started.since())
    return seconds


def time_requests(classifier: CueClassifier, words: int, count: int, rng: random.Random) -> list[Seconds]:
    """Seconds for each of `count` requests never met before."""
    seconds = []
    for _ in range(count):
        messages = ({"role": "user", "content": prose(words, rng)},)
        started = _now()
        classifier.request_harm(messages)
        seconds.append(started.since())
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the cue detector on one core.")
    parser.add_argument("--artifact", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--repeat", type=int, default=3, help="traces for each prompt size")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rng = random.Random(args.seed)
    classifier = CueClassifier(load_artifact(args.artifact))
    time_trace(classifier, ({"role": "user", "content": "warm up"},), prose(400, rng))

    segments: dict[str, dict[str, float]] = {}
    requests: dict[str, dict[str, float]] = {}
    thirds: list[list[Seconds]] = [[], [], []]
    print(f"{'prompt tokens':>14} {'sentence p50':>13} {'p95':>9} {'request p50':>13} {'p95':>9}   (ms)")
    for size in PROMPT_TOKENS:
        seconds: list[Seconds] = []
        for _ in range(args.repeat):
            messages = ({"role": "user", "content": prose(round(size / TOKENS_PER_WORD), rng)},)
            found = time_trace(classifier, messages, prose(round(TRACE_TOKENS / TOKENS_PER_WORD), rng))
            seconds += found
            for position in range(3):
                thirds[position] += found[len(found) * position // 3 : len(found) * (position + 1) // 3]
        segments[str(size)] = percentiles(seconds)
        requests[str(size)] = percentiles(time_requests(classifier, round(size / TOKENS_PER_WORD), 20, rng))
        s, r = segments[str(size)], requests[str(size)]
        print(f"{size:>14} {s['p50_ms']:>13} {s['p95_ms']:>9} {r['p50_ms']:>13} {r['p95_ms']:>9}")
    along = {name: percentiles(part) for name, part in zip(("first", "middle", "last"), thirds, strict=True)}
    print(
        "\nalong a 5,000-token trace, p50 ms: " + ", ".join(f"{name} third {p['p50_ms']}" for name, p in along.items())
    )
    result = {
        "benchmark": "detector",
        "artifact": classifier.artifact.digest,
        "sentence_by_prompt_tokens": segments,
        "sentence_along_trace": along,
        "request_by_prompt_tokens": requests,
        "sentences_per_second": round(1000 / segments["400"]["p50_ms"], 1),
        "seed": args.seed,
        "machine": {"processor": _processor(), "cores_used": 1},
        "versions": {
            "python": platform.python_version(),
            "onnxruntime": onnxruntime.__version__,
            "tokenizers": tokenizers.__version__,
            "numpy": np.__version__,
        },
    }
    print(json.dumps(result))
    return 0


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    sys.exit(main())
