"""The job's plots: curves trace by trace, what they have in common, and what each pool of triggers achieves."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.csr.config import CsrConfig, ModelKey
from train.csr.mining import HARMFUL
from train.csr.schema import Curve
from train.csr.summary import fall_pairs
from train.csr.turning import Thresholds, first_fall, safe_from, turning_points
from train.rollout.plots import save

_COLOURS: dict[str, str] = {"base": "#3b6ea5", "tuned": "#d1782a"}
_ARM_COLOURS = {"none": "#999999", "fixed": "#3b6ea5", "mined": "#4d9a57", "generated": "#d1782a"}
_SHOWN_TRACES = 12
_SHOWN_CANDIDATES = 20

Curves = Mapping[ModelKey, Sequence[Curve]]


def plot_all(report: dict[str, Any], curves: Curves, config: CsrConfig, out: Path) -> None:
    """OUT/curves.png, csr.png, and triggers.png where triggers were tried."""
    thresholds = config.turning.thresholds
    _plot_traces(curves, thresholds, out)
    _plot_overview(curves, thresholds, out)
    if report["pools"] is not None:
        _plot_triggers(report, out)


def _plot_traces(curves: Curves, thresholds: Thresholds, out: Path) -> None:
    """The first harmful prompts, both models on the same axes; lines mark turning points, a cross the judge's cue."""
    of_model = {key: {c.prompt_id: c for c in rows if c.measured} for key, rows in curves.items()}
    shown = [c for c in curves["base"] if c.label == HARMFUL and c.measured][:_SHOWN_TRACES]
    shown = shown or [c for c in curves["base"] if c.measured][:_SHOWN_TRACES]
    rows = max(1, -(-len(shown) // 3))
    figure = _figure(15, 3 * rows)
    axes = figure.subplots(rows, 3, squeeze=False)
    for place, (one, axis) in enumerate(zip(shown, axes.flat, strict=False)):
        for key, own in of_model.items():
            if (curve := own.get(one.prompt_id)) is not None:
                _plot_trace(axis, curve, key, thresholds)
        axis.set_title(f"{one.category or one.set_name} · {one.prompt_id[:8]}", fontsize=9)
        axis.set_ylim(-0.03, 1.03)
        if place == 0:
            axis.legend(fontsize=8)
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    figure.supxlabel("tokens of reasoning")
    figure.supylabel("CSR")
    save(figure, out / "curves.png")


def _plot_trace(axis: Axes, curve: Curve, key: str, thresholds: Thresholds) -> None:
    known = [(one.tokens, one.csr) for one in curve.measured if one.csr is not None]
    axis.plot(*zip(*known, strict=True), marker="o", markersize=3, color=_COLOURS[key], label=key)
    for turn in turning_points(curve.points, thresholds):
        axis.axvline(turn.end, color=_COLOURS[key], linestyle="-" if turn.kind == "trigger" else ":", alpha=0.5)
    if curve.judge_cue is not None:
        axis.plot(curve.sentences[curve.judge_cue].start_tokens, 0.5, marker="x", color=_COLOURS[key])


def _plot_overview(curves: Curves, thresholds: Thresholds, out: Path) -> None:
    figure = _figure(16, 4.6)
    means, scatter, places = figure.subplots(1, 3)
    harmful = {key: [c for c in rows if c.label == HARMFUL and c.measured] for key, rows in curves.items()}
    for key, rows in harmful.items():
        for is_unsafe, style in ((False, "-"), (True, ":")):
            own = [c for c in rows if c.verdict.is_unsafe is is_unsafe]
            if own:
                grid, mean = mean_curve(own)
                name = f"{key}, {'unsafe' if is_unsafe else 'safe'} (n={len(own)})"
                means.plot(grid, mean, style, color=_COLOURS[key], label=name)
        pairs = fall_pairs(rows, lambda curve: first_fall(curve.points, thresholds), "judge")
        if pairs:
            scatter.plot([x for x, _, _ in pairs], [y for _, y, _ in pairs], "o", color=_COLOURS[key], alpha=0.5)
        starts = [p - c.measured[0].tokens for c in rows if (p := safe_from(c.points, thresholds)) is not None]
        places.hist(starts, bins=20, color=_COLOURS[key], alpha=0.6, label=f"{key} (n={len(starts)})")
    _label(means, "mean CSR, harmful prompts", "share of the reasoning", "CSR")
    _label(scatter, "first cue (judge) against the first fall below eta", "first cue, tokens", "fall, tokens")
    _label(places, "where harmful prompts turn safe", "tokens until CSR stays above mu", "traces")
    save(figure, out / "csr.png")


def mean_curve(curves: Sequence[Curve]) -> tuple[Any, Any]:
    """(share of the reasoning, mean CSR there), every curve drawn straight between its measured positions."""
    grid = np.linspace(0, 1, 41)
    lines = []
    for curve in curves:
        known = [(one.tokens, one.csr) for one in curve.measured if one.csr is not None]
        if known:
            first, last = known[0][0], curve.sentences[-1].end_tokens
            x = [(tokens - first) / max(1, last - first) for tokens, _ in known]
            lines.append(np.interp(grid, x, [csr for _, csr in known]))
    return grid, np.mean(lines, axis=0) if lines else np.zeros_like(grid)


def _plot_triggers(report: dict[str, Any], out: Path) -> None:
    pools, ranked = report["pools"], report["mined"]["ranked"][:_SHOWN_CANDIDATES]
    figure = _figure(17, max(4.5, 0.32 * len(ranked) + 1.5))
    by_category, best = figure.subplots(1, 2, width_ratios=[3, 2])
    names = ["all", *sorted({name for pool in pools.values() for name in pool["by_category"]})]
    width = 0.8 / len(pools)
    for number, (arm, pool) in enumerate(pools.items()):
        cells = {"all": pool["safe"], **pool["by_category"]}
        at = [place + number * width for place, name in enumerate(names) if _known(cells, name)]
        found = [cells[name] for name in names if _known(cells, name)]
        _bars(by_category.bar, at, found, width, _ARM_COLOURS[arm], arm)
    by_category.set_xticks([place + 0.4 - width / 2 for place in range(len(names))], names, rotation=45, ha="right")
    _label(by_category, "safe after a trigger at the first cue, by pool", "", "share, 95 % interval")
    shown = [one for one in ranked if one["safe"]["share"] is not None][::-1]
    for place, one in enumerate(shown):
        cell, colour = one["safe"], "#4d9a57" if one["is_admitted"] else "#bb5555"
        best.errorbar(
            cell["share"],
            place,
            xerr=[[cell["share"] - cell["low"]], [cell["high"] - cell["share"]]],
            fmt="o",
            color=colour,
        )
    best.set_yticks(range(len(shown)), [one["text"][:60] for one in shown], fontsize=8)
    best.set_xlim(0, 1)
    best.set_title("mined sentences (red: not admitted)")
    save(figure, out / "triggers.png")


def _known(cells: Mapping[str, Any], name: str) -> bool:
    return name in cells and cells[name]["share"] is not None


def _bars(
    draw: Callable[..., Any], at: list[float], cells: list[dict[str, float]], width: float, colour: str, name: str
) -> None:
    spans = [[cell["share"] - cell["low"] for cell in cells], [cell["high"] - cell["share"] for cell in cells]]
    heights = [cell["share"] for cell in cells]
    draw(at, heights, width, yerr=np.clip(spans, 0, None), color=colour, label=name, error_kw={"linewidth": 0.8})


def _label(axis: Axes, title: str, x: str, y: str) -> None:
    axis.set_title(title)
    axis.set_xlabel(x)
    axis.set_ylabel(y)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
