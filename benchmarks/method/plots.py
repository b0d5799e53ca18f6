"""Pictures of a summary: the methods, and every curve that has points."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_SHOWN = (
    ("harmful_reasoning", "harmful reasoning", "#c0504d"),
    ("harmful_answer", "harmful answers", "#e0a030"),
    ("look_alikes_helped", "look-alikes helped", "#3b6ea5"),
    ("arithmetic_right", "arithmetic right", "#5a9a5a"),
)
_CURVES = ("pairs", "detector", "beta", "pool", "self_improvement")


def plot(found: dict[str, Any], folder: Path) -> list[Path]:
    """methods.png and curves.png."""
    folder.mkdir(parents=True, exist_ok=True)
    return [_methods(found["rows"], folder / "methods.png"), _curves(found["curves"], folder / "curves.png")]


def _methods(rows: dict[str, Any], path: Path) -> Path:
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(_SHOWN)
    for place, (key, label, colour) in enumerate(_SHOWN):
        points = [(x + width * place, row[key]) for x, row in enumerate(rows.values()) if key in row]
        _draw(axes, [x for x, _ in points], [point for _, point in points], label, colour, width)
    axes.set_xticks([x + 0.3 for x in range(len(rows))], list(rows), rotation=20, ha="right")
    axes.set_ylabel("percent, 95 % interval")
    axes.set_title("Held-out topics and framings")
    axes.legend()
    figure.savefig(path, dpi=110)
    return path


def _curves(curves: dict[str, Any], path: Path) -> Path:
    named = [name for name in _CURVES if len(curves[name]) > 1]
    figure = Figure(figsize=(5 * (len(named) + 1), 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(named) + 1, squeeze=False)[0]
    for name, points in curves["interventions"].items():
        _draw(axes[0], [point["x"] for point in points], points, name)
    axes[0].set_title("harmful reasoning after k interventions")
    if curves["interventions"]:
        axes[0].legend()
    for place, name in zip(axes[1:], named, strict=True):
        for key, label, colour in _SHOWN:
            points = [(x, point[key]) for x, point in enumerate(curves[name]) if key in point]
            _draw(place, [x for x, _ in points], [point for _, point in points], label, colour)
        place.set_xticks(range(len(curves[name])), [point["x"] for point in curves[name]])
        place.set_title(f"IPO by {name.replace('_', '-')}")
        place.legend()
    figure.savefig(path, dpi=110)
    return path


def _draw(
    axes: Axes, xs: list[Any], points: list[Any], label: str, colour: str | None = None, width: float | None = None
) -> None:
    """Bars of this width, or a line; both with their intervals."""
    means = [100 * point["mean"] for point in points]
    errors = [
        [100 * (point["mean"] - point["low"]) for point in points],
        [100 * (point["high"] - point["mean"]) for point in points],
    ]
    if width is None:
        axes.errorbar(xs, means, errors, label=label, color=colour, marker="o", capsize=3)
    else:
        axes.bar(xs, means, width, yerr=errors, label=label, color=colour, capsize=2)
