"""`steer detect --drift`: are these traces like those of the reference? A table, a JSON file, and a picture.

OUT.drift.json     figures, statement, and `baseline`: these traces as a reference for later ones
OUT.drift.png      both histograms; where matplotlib is missing (the serving side) bars are printed instead
"""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from detector.artifact import Artifact, load_artifact
from detector.classifier import CueClassifier
from detector.detect import Trace, detect_file
from detector.drift import HISTOGRAMS, DriftMonitor, DriftReport, Reference, TraceScores, make_reference
from detector.drift_reference import find_reference
from detector.histogram import Histogram, bin_edges

# A baseline of more traces tells no more, and each costs about a kilobyte while it is made.
_MAX_BASELINE = 100_000
_BAR_CHARS = 40


class DriftFiles(NamedTuple):
    """What was written; `picture` None without matplotlib, `report` None without a reference."""

    json_path: Path
    picture: Path | None
    report: DriftReport | None


class _Collector:
    """Hands every scored trace to the monitor, and keeps it for the baseline."""

    def __init__(self, monitor: DriftMonitor | None, stop: float) -> None:
        self._monitor = monitor
        self._stop = stop
        self.kept: list[TraceScores] = []

    def take(self, classifier: CueClassifier, trace: Trace, scores: list[float]) -> None:
        """Called for each trace."""
        found = TraceScores(self._stop)
        for score in scores:
            found.segment(score)
        found.request(classifier.request_harm(trace.messages))
        if self._monitor is not None:
            self._monitor.add(found)
        if scores and len(self.kept) < _MAX_BASELINE:
            self.kept.append(found)


def detect_drift(
    in_path: Path, out_path: Path, artifact_path: Path | None, reference_name: str, console: Console
) -> DriftFiles:
    """Score `in_path` into `out_path` like `detect_file`, and compare its scores with the reference of that name.

    Raises what `detect_file` and `find_reference` raise.
    """
    artifact = load_artifact(artifact_path)
    reference = find_reference(reference_name, artifact)
    stop = _lowest_threshold(artifact) if reference is None else reference.stop
    monitor = None if reference is None else DriftMonitor(reference)
    collector = _Collector(monitor, stop)
    detect_file(in_path, out_path, artifact_path, on_trace=collector.take)
    report = None if monitor is None else monitor.report()
    baseline = make_reference(collector.kept, stop)
    json_path = out_path.with_name(out_path.name + ".drift.json")
    _write_json(json_path, artifact, reference_name, report, baseline)
    if reference is None or report is None:
        console.print(
            f"{artifact.path} holds no reference {reference_name!r}: {json_path} is a baseline for later traffic"
        )
        return DriftFiles(json_path, None, None)
    _print_table(console, report)
    picture = None
    if find_spec("matplotlib") is not None:
        picture = out_path.with_name(out_path.name + ".drift.png")
        _draw(reference.histograms, baseline.histograms, report, picture)
    else:
        for name in HISTOGRAMS:
            _print_bars(console, name, reference.histograms[name], baseline.histograms[name])
    console.print(f"report: {json_path}" + (f", {picture}" if picture is not None else ""))
    return DriftFiles(json_path, picture, report)


def _lowest_threshold(artifact: Artifact) -> float:
    return min([artifact.threshold, *(point.threshold for point in artifact.operating_points)])


def _write_json(
    path: Path, artifact: Artifact, reference_name: str, report: DriftReport | None, baseline: Reference
) -> None:
    fields: dict[str, Any] = {
        "detector": artifact.digest,
        "reference": reference_name,
        "report": None if report is None else report.to_json(),
        "baseline": baseline.to_json(),
    }
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(fields) + "\n", encoding="utf-8")
    temporary.replace(path)


def _print_table(console: Console, report: DriftReport) -> None:
    table = Table(title=f"{report.traces} traces: {report.statement}")
    table.add_column("scores")
    for name in ("n", "PSI", "by chance", "KS", "p"):
        table.add_column(name, justify="right")
    table.add_column("statement")
    for item in report.comparisons:
        figures = (f"{item.psi:.3f}", f"{item.psi_by_chance:.3f}", f"{item.ks:.3f}", f"{item.p_value:.3f}")
        table.add_row(item.name, str(item.size), *figures, item.statement)
    console.print(table)


def _print_bars(console: Console, name: str, before: Histogram, after: Histogram) -> None:
    """Shares by the reference's groups."""
    edges = ["0", *(f"{bin_edges()[place - 1]:.4f}" for place in before.groups), "1"]
    shares = [[count / max(1, item.size) for count in item.grouped(before.groups)] for item in (before, after)]
    largest = max(*shares[0], *shares[1], 1e-9)
    table = Table(title=f"{name}: reference above, these traces below")
    table.add_column("score from")
    table.add_column("share")
    for start, *pair in zip(edges, *shares, strict=False):
        for label, share in zip((start, ""), pair, strict=True):
            table.add_row(label, f"{'█' * round(share / largest * _BAR_CHARS)} {share:.1%}")
    console.print(table)


def _draw(before: Mapping[str, Histogram], after: Mapping[str, Histogram], report: DriftReport, path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - the serving side has none

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - after the backend

    figure, axes = plt.subplots(1, len(HISTOGRAMS), figsize=(14, 3.8), layout="constrained")
    for axis, item in zip(axes, report.comparisons, strict=True):
        for histogram, label in ((before[item.name], "reference"), (after[item.name], "these traces")):
            shares = [count / max(1, histogram.size) for count in histogram.counts]
            axis.stairs(shares, label=label, fill=label == "reference", alpha=0.7)
        ticks = range(0, len(bin_edges()), 8)
        axis.set_xticks([place + 1 for place in ticks], [f"{bin_edges()[place]:.3g}" for place in ticks], rotation=60)
        axis.set(xlabel="score", ylabel="share", title=f"{item.name}: {item.statement}, PSI {item.psi:.2f}")
        axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
