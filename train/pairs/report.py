"""What a snapshot says of itself: how many pairs of which kind, how long, from where, and why the rest was dropped."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steer.pair import Pair
from train.rollout.plots import bars, save


def report_of(splits: Mapping[str, Sequence[Pair]], reasons: Sequence[str]) -> dict[str, Any]:
    """Counts over all pairs; `candidates` = pairs + dropped, always."""
    pairs = [pair for split in splits.values() for pair in split]
    return {
        "job": "pairs",
        "candidates": len(pairs) + len(reasons),
        "pairs": len(pairs),
        "train": len(splits["pairs"]),
        "validation": len(splits["validation"]),
        "dropped": dict(Counter(reasons).most_common()),
        "kinds": _count(pairs, lambda pair: pair.kind),
        "families": len({pair.family for pair in pairs}),
        "validation_families": len({pair.family for pair in splits["validation"]}),
        "prompts": len({str(pair.prompt_token_ids) for pair in pairs}),
        "categories": _count(pairs, lambda pair: pair.category or "none"),
        "triggers": _count(pairs, lambda pair: pair.trigger_id or "none"),
        "attempts": _count(pairs, lambda pair: str(pair.attempt)),
        "admitted_by": _count(pairs, lambda pair: pair.admitted_by),
        "tokens": {
            "prefix": _lengths(pairs, lambda pair: pair.divergence_index),
            "chosen": _lengths(pairs, lambda pair: len(pair.chosen.token_ids)),
            "rejected": _lengths(pairs, lambda pair: len(pair.rejected.token_ids)),
            "trigger": _lengths(pairs, lambda pair: pair.trigger_tokens),
        },
        "ended": {
            "chosen": sum(pair.chosen.ended for pair in pairs),
            "rejected": sum(pair.rejected.ended for pair in pairs),
        },
    }


def plot_all(report: Mapping[str, Any], splits: Mapping[str, Sequence[Pair]], out: Path) -> None:
    """OUT/pairs.png."""
    pairs = [pair for split in splits.values() for pair in split]
    figure = Figure(figsize=(16, 9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    sides = [[len(pair.chosen.token_ids) for pair in pairs], [len(pair.rejected.token_ids) for pair in pairs]]
    axes[0, 0].hist(sides, bins=24, label=["chosen", "rejected"], color=["#3b6ea5", "#c0504d"])
    axes[0, 0].set_title("ids of a side")
    axes[0, 0].legend()
    for place, name in ((axes[0, 1], "categories"), (axes[0, 2], "triggers"), (axes[1, 0], "attempts")):
        bars(place, report[name], name, "pairs")
    bars(axes[1, 1], report["dropped"], f"dropped of {report['candidates']} candidates", "divergences")
    bars(axes[1, 2], report["kinds"], "kinds", "pairs")
    save(figure, out / "pairs.png")


def _count(pairs: Sequence[Pair], of: Callable[[Pair], str]) -> dict[str, int]:
    return dict(sorted(Counter(map(of, pairs)).items()))


def _lengths(pairs: Sequence[Pair], of: Callable[[Pair], int]) -> dict[str, float]:
    values = [of(pair) for pair in pairs]
    if not values:
        return {"mean": 0, "median": 0, "max": 0}
    return {"mean": round(mean(values), 1), "median": median(values), "max": max(values)}
