"""The rollout's plots: where first cues stand, what each trigger did, what is left after k interventions."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def plot_all(report: dict[str, Any], out: Path) -> None:
    """OUT/rollout.png."""
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    cues = report["first_cue_segment"]
    bars(axes[0], cues, "first cue: segments before it", "samples")
    bars(axes[1], _shares(report["not_halted_after"]), "not halted again, by first trigger", "share of branches")
    bars(axes[2], {"0": 1.0, **_shares(report["still_halted_after"])}, "halted again after k triggers", "share")
    save(figure, out / "rollout.png")


def bars(axes: Axes, values: dict[str, float], title: str, label: str) -> None:
    """One bar for each name."""
    axes.bar(range(len(values)), list(values.values()), color="#3b6ea5")
    axes.set_xticks(
        range(len(values)),
        list(values),
        rotation=60 if len(values) > 6 else 0,
        ha="right" if len(values) > 6 else "center",
    )
    axes.set_title(title)
    axes.set_ylabel(label)


def save(figure: Figure, path: Path) -> None:
    """Whole or not at all."""
    part = path.with_name(path.stem + ".part.png")
    figure.savefig(part, dpi=110)
    part.replace(path)


def _shares(table: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: cell["share"] for name, cell in table.items()}
