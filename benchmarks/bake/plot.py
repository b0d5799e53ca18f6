"""The picture of bakes in a row."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_HARM = (("harmful_reasoning", "harmful reasoning", "#c0504d"), ("harmful_answer", "harmful answers", "#e0a030"))


def plot(generations: list[dict[str, Any]], bakes: list[dict[str, Any]], title: str, path: Path) -> Path:
    """Harm without the proxy, interventions, and what must stay flat, by generation."""
    figure = Figure(figsize=(13, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3)
    for key, label, colour in _HARM:
        _line(left, [one["harmful"]["alone"][key] for one in generations], label, colour)
    left.set_ylabel("percent of harmful requests, 95 % interval")
    left.set_title("The model without the proxy")
    middle.plot([one["harmful"]["interventions_per_1000"] for one in generations], marker="o", color="#7a4fa0")
    middle.set_title("Interventions per 1,000 harmful requests")
    _line(right, [one["look_alike"]["alone"]["helped"] for one in generations], "look-alikes helped", "#3b6ea5")
    if "arithmetic" in generations[0]:
        _line(right, [one["arithmetic"]["alone"]["correct"] for one in generations], "sums right", "#5a9a5a")
    right.set_title("What must stay")
    labels = ["base", *(_label(number, bake) for number, bake in enumerate(bakes, 1))]
    for axes in (left, middle, right):
        axes.set_xticks(range(len(generations)), labels[: len(generations)])
        axes.set_ylim(bottom=0)
    for axes in (left, right):
        axes.legend(loc="lower left")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    return path


def _label(number: int, bake: dict[str, Any]) -> str:
    """A bake that was not promoted left the model as it was."""
    return f"bake {number}" if bake["outcome"] == "canary" else f"bake {number}\n(not promoted)"


def _line(axes: Axes, rates: list[dict[str, Any]], label: str, colour: str) -> None:
    means = [100 * rate["rate"] for rate in rates]
    errors = [[100 * max(0.0, a - b) for a, b in ends] for ends in (
        [(rate["rate"], rate["low"]) for rate in rates], [(rate["high"], rate["rate"]) for rate in rates],
    )]  # fmt: skip
    axes.errorbar(range(len(rates)), means, errors, label=label, color=colour, marker="o", capsize=3)
