"""Measures an artifact on labelled traces, through the segmenter and the classifier that the proxy uses.

python -m train.detector.evaluate --traces FILE [--artifact DIR] [--threshold X] [--out report.json]
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from detector.artifact import Artifact, load_artifact
from detector.classifier import CueClassifier, Model
from detector.context import Context
from train.detector.data import Trace, label_segments, read_traces
from train.detector.metrics import Scored, halted, summary


def score_traces(artifact: Artifact, traces: Sequence[Trace], progress: TextIO | None = None) -> list[Scored]:
    """Every segment of every trace, over its full length; traces side by side, a thread for each core."""
    model, items = Model(artifact), []
    # onnxruntime lets other threads run while it computes; a score does not depend on what else is scored.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for number, item in enumerate(pool.map(lambda trace: _score(CueClassifier(artifact, model), trace), traces), 1):
            items.append(item)
            if progress is not None and (number % 100 == 0 or number == len(traces)):
                progress.write(f"scored {number}/{len(traces)} traces\n")
    return items


def _score(classifier: CueClassifier, trace: Trace) -> Scored:
    messages = ({"role": "user", "content": trace.prompt},)
    segments, text = label_segments(trace), trace.reasoning
    scores = classifier.score([Context(messages, text[: s.start], text[s.start : s.end]) for s in segments])
    return Scored(trace, segments, scores)


def report(items: Sequence[Scored], threshold: float, ordinary: Sequence[str]) -> dict[str, object]:
    """The summary by source, and the share of ordinary benign traces halted."""
    result = summary(items, threshold, lambda trace: f"{trace.source} {trace.prompt_label}")
    benign = [item for item in items if item.trace.source in ordinary and item.trace.prompt_label == "benign"]
    result["ordinary_benign"] = asdict(halted(benign, threshold))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure a cue detector on labelled traces.")
    parser.add_argument("--traces", type=Path, required=True, help="labelled traces, JSONL or JSONL.gz")
    parser.add_argument("--artifact", type=Path, default=None, help="artifact folder; default: the shipped one")
    parser.add_argument("--threshold", type=float, default=None, help="default: the artifact's")
    parser.add_argument("--ordinary", nargs="*", default=["r1_distill_benign", "code_reasoning", "dna_judge"])
    parser.add_argument("--out", type=Path, default=None, help="where to write the report, as JSON")
    args = parser.parse_args()
    artifact = load_artifact(args.artifact)
    threshold = artifact.threshold if args.threshold is None else args.threshold
    items = score_traces(artifact, read_traces([args.traces]), sys.stderr)
    text = json.dumps(report(items, threshold, args.ordinary), indent=2)
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
