"""What the manifest says of an exported artifact: calibration, operating points, references for drift.

All of it is measured on the validation split with the quantised graphs as they will be served. A calibration moves
scores and thresholds together, so thresholds are chosen on raw scores and carried over: it changes no halt.

python -m train.detector.calibrate --artifact DIR --config TOML --out DIR      does it again for a finished artifact
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from detector.artifact import Artifact, OperatingPoint, Rate, load_artifact, write_manifest
from detector.calibration import Calibration
from detector.classifier import CueClassifier
from detector.drift import Reference, TraceScores, make_reference
from train.detector.config import DetectorConfig, load_config
from train.detector.data import LABELS, Trace, prompt_hash, read_traces
from train.detector.evaluate import score_traces
from train.detector.metrics import Interval, Scored, choose_threshold, cue_report, halted, thresholds_within
from train.detector.plots import plot_reliability
from train.detector.reliability import CalibrationReport, calibrate_scores
from train.detector.split import split_data

HISTOGRAM_BINS = 20
# Operating points: multiples of the configured budgets and of the margin. The shipped threshold is balanced; strict is
# the lowest threshold that keeps its budgets.
_BUDGET_FACTORS = {"strict": (2.0, 0.0), "balanced": (1.0, 1.0), "lenient": (0.25, 2.0)}
# Ordinary validation traces are few, drift needs many: unlabelled ones of the same sources join them, up to so many.
_MAX_UNLABELLED = 400


class Groups(NamedTuple):
    """Scored validation traces, and those among them that budgets are stated for."""

    items: Sequence[Scored]
    ordinary: Sequence[Scored]
    borderline: Sequence[Scored]


def calibrate(
    config: DetectorConfig,
    validation: Sequence[Trace],
    artifact: Path,
    training_data: str,
    details: dict[str, Any],
    out: Path,
    progress: TextIO | None = None,
) -> str:
    """Complete the artifact folder with its manifest; returns the digest. `out`: calibration.json, reliability.png."""
    unmade = Artifact(artifact, "", 0.5, (), tuple(LABELS), training_data, ())
    raw = score_traces(unmade, validation, progress)
    # Validation holds some dozen ordinary traces, and a budget is one in two hundred.
    more = score_traces(unmade, unlabelled_ordinary(config), progress)
    found = calibrate_scores(raw)
    points = operating_points(config, groups(config, raw, more), found.calibration)
    stop = min(point.threshold for point in points)
    (out / "calibration.json").write_text(json.dumps(_report(found, points), indent=2) + "\n", encoding="utf-8")
    plot_reliability(found, out / "reliability.png")
    items = calibrated_items(raw, found.calibration)
    ordinary = groups(config, items, calibrated_items(more, found.calibration)).ordinary
    classifier = CueClassifier(unmade)
    references = {"ordinary": reference(classifier, ordinary, stop), "all": reference(classifier, items, stop)}
    scores = np.array([score for item in ordinary for score in item.scores])
    counts, _ = np.histogram(scores, bins=HISTOGRAM_BINS, range=(0.0, 1.0))
    fields = {
        "threshold": next(point.threshold for point in points if point.name == "balanced"),
        "operating_points": [asdict(point) for point in points],
        "labels": list(LABELS),
        "training_data": training_data,
        "reference_histogram": [round(float(value), 6) for value in counts / max(1, counts.sum())],
        "calibration": None if found.calibration is None else asdict(found.calibration),
        "references": {name: item.to_json() for name, item in references.items()},
        "details": details,
    }
    return write_manifest(artifact, fields)


def groups(config: DetectorConfig, items: Sequence[Scored], more_ordinary: Sequence[Scored] = ()) -> Groups:
    """By the sources that the config names; `more_ordinary` are not among the `items`."""
    data = config.data
    ordinary = [i for i in items if i.trace.source in data.ordinary_sources and i.trace.prompt_label == "benign"]
    borderline = [i for i in items if i.trace.source in data.borderline_sources]
    return Groups(items, [*ordinary, *more_ordinary], borderline)


def operating_points(config: DetectorConfig, raw: Groups, calibration: Calibration | None) -> list[OperatingPoint]:
    """Thresholds for the budgets, chosen on raw scores, on the scale of calibrated ones."""
    return [_operating_point(name, config, raw, calibration) for name in _BUDGET_FACTORS]


def _operating_point(name: str, config: DetectorConfig, raw: Groups, calibration: Calibration | None) -> OperatingPoint:
    limits, (budget_factor, margin_factor) = config.threshold, _BUDGET_FACTORS[name]
    max_ordinary = limits.max_ordinary_halts * budget_factor
    max_borderline = min(1.0, limits.max_borderline_halts * budget_factor)
    margin = limits.margin * margin_factor
    max_refusing = min(1.0, limits.max_refusing_halts * budget_factor)
    chosen = choose_threshold(
        raw.items, raw.ordinary, raw.borderline, max_ordinary, max_borderline, margin, max_refusing
    )
    if name == "strict":  # spends its budget: first cues that validation traces do not show are found with it
        within = thresholds_within(raw.ordinary, raw.borderline, max_ordinary, max_borderline, margin)
        chosen = min([chosen, *within])
    recall, ordinary = cue_report(raw.items, chosen).within_one, halted(raw.ordinary, chosen)
    return OperatingPoint(
        name=name,
        # Rounded down: what reached the raw threshold must reach this one.
        threshold=chosen if calibration is None else np.floor(calibration.apply(chosen) * 1e6) / 1e6,
        false_halt_rate=ordinary.share,
        recall=recall.share,
        max_ordinary_halts=max_ordinary,
        max_borderline_halts=max_borderline,
        found=_rate(recall),
        ordinary=_rate(ordinary),
        borderline=_rate(halted(raw.borderline, chosen)),
    )


def _rate(interval: Interval) -> Rate | None:
    """None where there was nothing to count: JSON has no NaN."""
    return None if interval.of == 0 else Rate(**asdict(interval))


def calibrated_items(raw: Sequence[Scored], calibration: Calibration | None) -> list[Scored]:
    """The same traces with the scores that will be served."""
    if calibration is None:
        return list(raw)
    return [replace(item, scores=[calibration.apply(score) for score in item.scores]) for item in raw]


def reference(classifier: CueClassifier, items: Sequence[Scored], stop: float) -> Reference:
    """Histograms for drift of these traces."""
    traces = []
    for item in items:
        scores = TraceScores(stop)
        for score in item.scores:
            scores.segment(score)
        scores.request(classifier.request_harm(({"role": "user", "content": item.trace.prompt},)))
        traces.append(scores)
    return make_reference(traces, stop)


def unlabelled_ordinary(config: DetectorConfig) -> list[Trace]:
    """Benign traces of the ordinary sources that no segment was trained on, the same ones every time."""
    data = config.data
    found = [
        trace
        for trace in read_traces(data.traces)
        if not trace.labels and trace.prompt_label == "benign" and trace.source in data.ordinary_sources
    ]
    return sorted(found, key=lambda trace: prompt_hash(trace.id))[:_MAX_UNLABELLED]


def _report(found: CalibrationReport, points: Sequence[OperatingPoint]) -> dict[str, object]:
    return asdict(found) | {"operating_points": [asdict(point) for point in points]}


def main() -> int:
    parser = argparse.ArgumentParser(description="Calibrate a finished artifact anew and rewrite its manifest.")
    parser.add_argument("--artifact", type=Path, required=True, help="artifact folder")
    parser.add_argument("--config", type=Path, required=True, help="TOML of the job that made it")
    parser.add_argument("--out", type=Path, required=True, help="folder for calibration.json and reliability.png")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    config = load_config(args.config)
    before = json.loads((args.artifact / "manifest.json").read_text(encoding="utf-8"))
    validation = split_data(config.data).validation
    digest = calibrate(
        config, validation, args.artifact, before["training_data"], before.get("details", {}), args.out, sys.stderr
    )
    load_artifact(args.artifact)
    sys.stdout.write(f"{args.artifact}: now {digest[:12]}, report: {args.out / 'calibration.json'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
