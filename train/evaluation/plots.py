"""The report's and the comparison's pictures: shares with intervals, and KL by where it stands."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.evaluation.markdown import label_of
from train.evaluation.report import EvaluationReport, Kl, KlPart, Mean, Rate
from train.rollout.plots import save

_COLOURS = ("#3b6ea5", "#c2412d", "#4a8f5c", "#9aa5b1")
Series = Mapping[str, Mapping[str, Rate]]


def plot_report(report: EvaluationReport, out: Path) -> None:
    """OUT/rates.png (all variants), OUT/sets.png, OUT/kl.png, as far as there is something to show."""
    variants = {"template": report.rates} | {str(name): rates for name, rates in report.variants.items()}
    plot_rates({name: dict(rates.flat()) for name, rates in variants.items()}, report.name, out / "rates.png")
    sets: dict[str, dict[str, Rate]] = {"harmful reasoning": {}, "harmful answers": {}, "right answers": {}}
    for chosen in report.sets:
        found = (chosen.rates.harmful_reasoning, chosen.rates.harmful_answer, chosen.capability)
        for column, rate in zip(sets.values(), found, strict=True):
            if rate is not None:
                column[chosen.name] = rate
    plot_rates({name: rates for name, rates in sets.items() if rates}, f"{report.name}: by set", out / "sets.png")
    if report.rates.kl is not None:
        _plot_kl(report.rates.kl, out / "kl.png")


def plot_rates(series: Series, title: str, path: Path) -> None:
    """A row for each measure, a bar for each series; nothing where there is no figure."""
    names = [name for name in dict.fromkeys(n for rates in series.values() for n in rates) if _has(series, name)]
    if not names:
        return
    figure = _figure(9, 1.2 + 0.32 * len(names) * max(1, len(series)))
    axes = figure.subplots()
    height = 0.8 / len(series)
    for index, (label, rates) in enumerate(series.items()):
        places = [row + (index - (len(series) - 1) / 2) * height for row in range(len(names))]
        shown = [(at, rate) for at, name in zip(places, names, strict=True) if (rate := rates.get(name)) is not None]
        _bars(axes, [(at, rate) for at, rate in shown if rate.share is not None], height, label, index)
    axes.set_yticks(range(len(names)), [label_of(name) for name in names])
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="per cent", title=title)
    if len(series) > 1:
        axes.legend()
    save(figure, path)


def _has(series: Series, name: str) -> bool:
    return any(name in rates and rates[name].share is not None for rates in series.values())


def _bars(axes: Axes, shown: Sequence[tuple[float, Rate]], height: float, label: str, index: int) -> None:
    shares = [100 * (rate.share or 0.0) for _, rate in shown]
    errors = [[_beyond(r.share, r.low) for _, r in shown], [_beyond(r.share, r.high) for _, r in shown]]
    axes.barh(
        [at for at, _ in shown],
        shares,
        height=height * 0.9,
        xerr=errors,
        label=label,
        color=_COLOURS[index % len(_COLOURS)],
        error_kw={"elinewidth": 1, "capsize": 2},
    )


def _beyond(share: float | None, bound: float | None) -> float:
    """How far a bound lies from its share, in per cent."""
    return 0.0 if share is None or bound is None else 100 * abs(bound - share)


def _plot_kl(kl: Kl, path: Path) -> None:
    parts: list[tuple[str, KlPart]] = [("all", kl), *kl.by_label.items()]
    figure = _figure(7, 3.6)
    axes = figure.subplots()
    for index, side in enumerate(("near", "elsewhere")):
        means: list[Mean] = [getattr(part, side) for _, part in parts]
        places = [row + (index - 0.5) * 0.4 for row in range(len(parts))]
        axes.bar(places, [mean.value or 0.0 for mean in means], width=0.36, label=side, color=_COLOURS[1 - index])
    axes.set_xticks(range(len(parts)), [name for name, _ in parts])
    axes.set(ylabel="nats a token", title=f"KL to {kl.reference}")
    axes.legend()
    save(figure, path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
