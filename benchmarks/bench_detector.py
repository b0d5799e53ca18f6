"""What a verdict costs: milliseconds per sentence on one core; folding, tokenising and context included.

    python -m benchmarks.bench_detector [--artifact DIR] [--traces FILE] [--out detector.json]

Prompts of 50, 400 and 2,000 tokens, and sentences along a 5,000-token trace by where in it they stand: the cost must
grow with neither. The request encoding, paid once per conversation beside generation, is timed apart. Then, the same
sentences in turn: as served, the graph alone, the same model in fp32 ONNX and in torch eager, and a full-context
6-layer cross-encoder in torch eager (random weights; up to 400 tokens of prompt and the sentences before, at most 512).
Sentences are of our own, with the lengths of real reasoning, or from `--traces` (JSONL: prompt, reasoning).
The process is bound to one core and one thread; CPU time of the process is timed, and wall time beside it.
A table, a plot, a JSON document. Without onnx or torch their rows are left out.
"""

import argparse
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from tokenizers import Tokenizer

from benchmarks._detector_clock import Seconds, percentiles, timed
from benchmarks._detector_text import Prose, Trace, read_traces
from benchmarks._report import finish
from detector.artifact import FILES, Artifact, load_artifact
from detector.classifier import CueClassifier
from detector.context import Context, Message
from steer.segmenter import segment

PROMPT_TOKENS = (50, 400, 2000)
TRACE_TOKENS = 5000
PARTS = 5


def contexts(trace: Trace) -> list[Context]:
    messages: tuple[Message, ...] = ({"role": "user", "content": trace.prompt},)
    text = trace.reasoning
    return [Context(messages, text[: piece.start], text[piece.start : piece.end]) for piece in segment(text)]


def time_trace(classifier: CueClassifier, trace: Trace) -> list[Seconds]:
    """Seconds for each sentence, in order; the request has been encoded before, as beside generation."""
    found = contexts(trace)
    classifier.request_harm(({"role": "user", "content": trace.prompt},))
    return [timed(lambda context=context: classifier.score([context])) for context in found]  # type: ignore[misc]


def by_prompt(classifier: CueClassifier, prose: Prose, repeat: int) -> dict[str, Any]:
    """Sentence and request costs by the prompt's tokens, and sentence costs by fifths of the trace."""
    sentences: dict[str, Any] = {}
    requests: dict[str, Any] = {}
    parts: list[list[Seconds]] = [[] for _ in range(PARTS)]
    everything: list[Seconds] = []
    print(f"{'prompt tokens':>14} {'sentence p50':>13} {'p95':>9} {'request p50':>13} {'p95':>9}   (ms)")
    for size in PROMPT_TOKENS:
        seconds: list[Seconds] = []
        for _ in range(repeat):
            found = time_trace(classifier, Trace(prose.text(size), prose.text(TRACE_TOKENS)))
            seconds += found
            for part in range(PARTS):
                parts[part] += found[len(found) * part // PARTS : len(found) * (part + 1) // PARTS]
        fresh = [({"role": "user", "content": prose.text(size)},) for _ in range(20)]
        asked = [timed(lambda messages=messages: classifier.request_harm(messages)) for messages in fresh]  # type: ignore[misc]
        s, r = sentences[str(size)], requests[str(size)] = percentiles(seconds), percentiles(asked)
        everything += seconds
        print(f"{size:>14} {s['p50_ms']:>13} {s['p95_ms']:>9} {r['p50_ms']:>13} {r['p95_ms']:>9}")
    along = [percentiles(part) for part in parts]
    print("\nalong a 5,000-token trace, p50 ms by fifths: " + ", ".join(str(part["p50_ms"]) for part in along))
    return {
        "sentence": percentiles(everything),
        "sentence_by_prompt_tokens": sentences,
        "sentence_by_fifth_of_trace": along,
        "request_by_prompt_tokens": requests,
    }


def of_traces(classifier: CueClassifier, traces: list[Trace]) -> dict[str, Any]:
    seconds = [one for trace in traces for one in time_trace(classifier, trace)]
    figures = percentiles(seconds)
    print(f"\ntraces of the file: p50 {figures['p50_ms']} ms, p95 {figures['p95_ms']} ms, {figures['count']} sentences")
    return figures


def side_by_side(artifact: Artifact, traces: list[Trace], count: int) -> dict[str, Any] | None:
    """Of `count` sentences evenly spread over `traces`; None without onnx, or with an artifact of an older export."""
    try:
        from benchmarks._detector_sides import Sides  # noqa: PLC0415

        sides = Sides(artifact)
    except (ImportError, ValueError) as error:
        print(f"no side-by-side part: {error}")
        return None
    every = [context for trace in traces for context in contexts(trace)]
    return sides.measure(every[:: max(1, len(every) // count)])


def plot(figures: dict[str, Any], path: Path) -> None:
    """Cost along the trace, and side by side, as PNG."""
    import matplotlib as mpl  # noqa: PLC0415  # of the training side

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    along = figures["sentence_by_fifth_of_trace"]
    for name in ("p50_ms", "p95_ms"):
        left.plot(range(1, PARTS + 1), [part[name] for part in along], marker="o", label=name.removesuffix("_ms"))
    left.set(
        xlabel="fifth of a 5,000-token trace", ylabel="CPU ms per sentence", ylim=(0, None), xticks=range(1, PARTS + 1)
    )
    left.legend()
    sides = {name: one for name, one in (figures["side_by_side"] or {}).items() if "times_served" in one}
    bars = right.barh(list(sides), [one["p50_ms"] for one in sides.values()])
    right.bar_label(bars, [f" {one['p50_ms']:.1f} ms, x{one['times_served']:.1f}" for one in sides.values()])
    right.set(xscale="log", xlabel="p50 CPU ms per sentence, log scale")
    right.invert_yaxis()
    right.set_xlim(right=6 * max((one["p50_ms"] for one in sides.values()), default=1.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> int:
    parser = argparse.ArgumentParser(description="Time the cue detector on one core.")
    parser.add_argument("--artifact", type=Path, default=None, help="default: the shipped one")
    parser.add_argument("--traces", type=Path, default=None, help="real sentences besides: JSONL or JSONL.gz")
    parser.add_argument("--trace-count", type=int, default=60, help="traces taken of the file")
    parser.add_argument("--repeat", type=int, default=3, help="traces for each prompt size")
    parser.add_argument("--sides", type=int, default=150, help="sentences of the side-by-side part; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="where to write the JSON; the plot goes beside it")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    artifact = load_artifact(args.artifact)
    classifier = CueClassifier(artifact)
    prose = Prose(Tokenizer.from_file(str(artifact.file("tokenizer.json"))), args.seed)
    time_trace(classifier, Trace("warm up", prose.text(400)))

    figures: dict[str, Any] = {"artifact": artifact.digest, "cores_used": 1}
    figures["artifact_mb"] = round(
        sum(artifact.file(name).stat().st_size for name in (*FILES, "manifest.json")) / 1e6, 2
    )
    figures |= by_prompt(classifier, prose, args.repeat)
    figures["sentences_per_second"] = round(1000 / figures["sentence"]["mean_ms"], 1)
    print(f"{figures['sentences_per_second']} sentences/s; the artifact has {figures['artifact_mb']} MB")
    traces = [Trace(prose.text(PROMPT_TOKENS[1]), prose.text(TRACE_TOKENS // 5)) for _ in range(5)]
    if args.traces is not None:
        traces = list(islice(read_traces(args.traces, args.seed), args.trace_count))
        figures["sentence_of_traces"] = of_traces(classifier, traces)
    figures["side_by_side"] = side_by_side(artifact, traces, args.sides) if args.sides else None
    if args.out is not None:
        plot(figures, args.out.with_suffix(".png"))
    finish("detector", figures, seed=args.seed, out=args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
