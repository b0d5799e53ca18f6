"""The gate's decision as a picture: every check with its interval and its limit."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.gate.decide import Decision

_COLOURS = {"kept": "#3b8a4d", "worse": "#c0504d", "not_shown": "#d99a2b"}


def plot_decision(decision: Decision, path: Path) -> None:
    """Written whole or not at all. How much worse the candidate is, left is better; improvement the other way round."""
    bounded = [
        (check, check.value, check.low, check.high)
        for check in reversed(decision.checks)
        if check.value is not None and check.low is not None and check.high is not None
    ]
    figure = Figure(figsize=(9, 1.2 + 0.55 * max(1, len(bounded))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, (check, value, low, high) in enumerate(bounded):
        colour = _COLOURS.get(check.finding, "#777777")
        axes.plot([low, high], [place, place], color=colour, linewidth=3)
        axes.plot([value], [place], "o", color=colour)
        if check.limit is not None:
            axes.plot([check.limit], [place], "|", color="black", markersize=18)
    axes.axvline(0, color="#aaaaaa", linewidth=0.8)
    axes.set_yticks(range(len(bounded)), [check.name for check, *_ in bounded])
    verdict = "overridden" if decision.override else "promotes" if decision.promotes else "refuses"
    axes.set_title(f"the gate {verdict}; bars are intervals, ticks are limits")
    part = path.with_name("." + path.name)
    figure.savefig(part, dpi=110)
    part.replace(path)
