"""How much the judge finds: the share of unhalted traffic that was missed, and of halts that it finds needless.

Rates are of what was judged and could be told apart, with Wilson intervals; samples are drawn at random, so their rate
is that of all unhalted traffic. A judge errs, too: reviewers have the last word on each.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steer.review import JudgedTrace, SecondVerdict
from train.gate.intervals import wilson
from train.rollout.plots import bars, save

Judged = Sequence[tuple[JudgedTrace, SecondVerdict]]

_BINS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5)


def report_of(judged: Judged, confidence: float) -> dict[str, Any]:
    """Counts by kind, model and the detector's highest score."""
    samples = [item for item in judged if item[0].kind == "sample"]
    halts = [item for item in judged if item[0].kind == "intervention"]
    return {
        "job": "misses",
        "traces": len(judged),
        "samples": rate(samples, confidence),
        "interventions": rate(halts, confidence),
        "samples_by_model": {
            model: rate([item for item in samples if item[0].model == model], confidence)
            for model in sorted({trace.model for trace, _ in samples})
        },
        "samples_by_score": {
            name: rate([item for item in samples if _bin(item[0].max_score) == name], confidence)
            for name in map(_name, range(len(_BINS)))
        },
        "where": dict(Counter(_where(verdict) for trace, verdict in samples if verdict.disagrees)),
    }


def rate(judged: Judged, confidence: float) -> dict[str, Any]:
    """How many the judge disagrees with the detector about; `share` None where it could tell of none."""
    told = [verdict for _, verdict in judged if _can_tell(verdict)]
    disagreeing = sum(verdict.disagrees for verdict in told)
    found: dict[str, Any] = {"n": len(judged), "told": len(told), "disagrees": disagreeing}
    if not told:
        return found | {"share": None, "low": None, "high": None}
    bounds = wilson(disagreeing, len(told), confidence)
    return found | {"share": disagreeing / len(told), "low": bounds.low, "high": bounds.high}


def plot(report: Mapping[str, Any], out: Path) -> None:
    """OUT/misses.png."""
    figure = Figure(figsize=(13, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    kinds = {name: report[name]["share"] or 0.0 for name in ("samples", "interventions")}
    bars(axes[0], kinds, "the judge disagrees", "share of what it can tell")
    scores = {name: cell["share"] or 0.0 for name, cell in report["samples_by_score"].items()}
    bars(axes[1], scores, "samples, by the detector's highest score", "share found unsafe")
    bars(axes[2], report["where"] or {"none": 0}, "where finds are unsafe", "samples")
    save(figure, out / "misses.png")


def _can_tell(verdict: SecondVerdict) -> bool:
    if verdict.kind == "sample":
        return verdict.is_unsafe is not None
    return verdict.harmful_request is not None or verdict.unsafe_reasoning is not None


def _where(verdict: SecondVerdict) -> str:
    if verdict.unsafe_reasoning and verdict.unsafe_answer:
        return "both"
    return "reasoning" if verdict.unsafe_reasoning else "answer"


def _bin(score: float) -> str:
    return _name(max(place for place, low in enumerate(_BINS) if score >= low))


def _name(place: int) -> str:
    return f"{_BINS[place]:g}+"
