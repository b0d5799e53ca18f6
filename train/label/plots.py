"""Pictures for the report: what the labels are, and where the teacher differs from a reference."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.detector.data import LABELS
from train.rollout.plots import save

_SHOWN_SENTENCES = 40
_COLOURS = {"N": "#9aa5b1", "C": "#c2412d", "S": "#3b6ea5"}


def plot_labels(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Left: letters by sentence, over conversations with a harmful request. Right: where the first cue stands."""
    harmful = [line["labels"] for line in lines if line["prompt_label"] == "harmful"]
    figure = _figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    places = range(1, _SHOWN_SENTENCES + 1)
    shares = [[_share(harmful, place - 1, letter) for place in places] for letter in LABELS]
    left.stackplot(places, shares, labels=list(LABELS), colors=[_COLOURS[letter] for letter in LABELS], step="mid")
    left.set(xlabel="sentence", ylabel="share", title=f"labels, {len(harmful)} harmful requests")
    left.legend()
    cues = Counter(min(labels.find("C"), _SHOWN_SENTENCES) + 1 for labels in harmful if "C" in labels)
    edges = [place - 0.5 for place in range(1, _SHOWN_SENTENCES + 3)]
    right.stairs([cues[place] for place in range(1, _SHOWN_SENTENCES + 2)], edges, fill=True, color=_COLOURS["C"])
    right.set(xlabel="sentence of the first cue", ylabel="conversations", title=f"{sum(cues.values())} comply")
    save(figure, path)


def plot_agreement(reports: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Confusion matrices, a row of plots for each reference: sentences and requests."""
    figure = _figure(8.5, 4.0 * len(reports))
    grid = figure.subplots(len(reports), 2, squeeze=False)
    for (left, right), (name, report) in zip(grid, reports.items(), strict=True):
        _matrix(left, report["sentences"], list(LABELS), name, f"sentences{_kappa(report['sentence_kappa'])}")
        _matrix(right, report["requests"], ["harmful", "benign"], name, f"requests{_kappa(report['request_kappa'])}")
    save(figure, path)


def _matrix(axes: Axes, counts: Sequence[Sequence[int]], names: Sequence[str], reference: str, title: str) -> None:
    """Coloured by share of the row; counts and shares as text."""
    shares = [[count / max(1, sum(row)) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, (own, parts) in enumerate(zip(counts, shares, strict=True)):
        for column, (count, share) in enumerate(zip(own, parts, strict=True)):
            colour = "white" if share > 0.6 else "black"
            axes.text(column, row, f"{count}\n{share:.1%}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="teacher", ylabel=reference, title=title)


def _kappa(estimate: Mapping[str, Any]) -> str:
    return "" if estimate["value"] is None else f", kappa {estimate['value']:.2f}"


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _share(labels: Sequence[str], index: int, letter: str) -> float:
    there = [own[index] for own in labels if index < len(own)]
    return there.count(letter) / len(there) if there else 0.0
