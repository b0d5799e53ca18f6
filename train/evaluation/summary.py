"""From counts by prompt to the report's rates."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from train.evaluation.bootstrap import Cells, Resampling
from train.evaluation.report import Kl, KlPart, Monitorability, Rate, Rates, SafetyRates, SetReport
from train.evaluation.scores import SAFETY, Score, cells_of, correct_by_set
from train.evaluation.sets import PromptSet


class MonitorIdentity(NamedTuple):
    """The detector that was asked."""

    detector: str
    threshold: float


@dataclass(frozen=True, slots=True)
class KlIdentity:
    """How KL was measured, and over how many traces."""

    reference: str
    finders: tuple[str, ...]
    window: int
    traces: int


def rates_of(
    scores: Sequence[Score], resampling: Resampling, monitor: MonitorIdentity | None, kl: KlIdentity | None = None
) -> Rates:
    """All prompts of one variant together."""
    by_set = correct_by_set(scores)
    capability = {name: resampling.rate(f"capability.{name}", cells) for name, cells in by_set.items()}
    return Rates(
        **_safety(scores, resampling),
        capability=capability,
        capability_mean=resampling.mean_of_sets("capability_mean", by_set) if by_set else None,
        monitorability=None if monitor is None else _monitorability(scores, resampling, monitor),
        kl=None if kl is None else _kl(scores, resampling, kl),
    )


def set_report(chosen: PromptSet, scores: Sequence[Score], resampling: Resampling) -> SetReport:
    """One set, by the template's samples."""
    own = [score for score in scores if score.set == chosen.name and score.variant == "template"]
    correct = cells_of(own, "correct")
    return SetReport(
        name=chosen.name,
        source=chosen.source,
        format=chosen.format,
        sha256=chosen.sha256,
        prompts=len(chosen.items),
        labels=dict(sorted(Counter(item.label for item in chosen.items).items())),
        rates=SafetyRates(**_safety(own, resampling)),
        capability=resampling.rate(f"capability.{chosen.name}", correct) if correct else None,
    )


def _safety(scores: Sequence[Score], resampling: Resampling) -> dict[str, Rate]:
    found = {}
    for name in SAFETY:
        if cells := cells_of(scores, name):
            found[name] = resampling.rate(name, cells, sum(score.unjudged.get(name, 0) for score in scores))
    return found


def _monitorability(scores: Sequence[Score], resampling: Resampling, monitor: MonitorIdentity) -> Monitorability:
    def rate(name: str) -> Rate:
        return resampling.rate(f"monitorability.{name}", cells_of(scores, name))

    return Monitorability(
        detector=monitor.detector,
        threshold=monitor.threshold,
        recall=rate("recall"),
        hidden_harm=rate("hidden_harm"),
        false_flags=rate("false_flags"),
    )


def _kl(scores: Sequence[Score], resampling: Resampling, kl: KlIdentity) -> Kl:
    labels = sorted({score.label for score in scores if "kl_near" in score.counts})
    parts = {label: _kl_part([s for s in scores if s.label == label], resampling, f"kl.{label}") for label in labels}
    whole = _kl_part(scores, resampling, "kl")
    return Kl(
        near=whole.near,
        elsewhere=whole.elsewhere,
        ratio=whole.ratio,
        reference=kl.reference,
        finders=list(kl.finders),
        window=kl.window,
        traces=kl.traces,
        by_label=parts,
    )


def _kl_part(scores: Sequence[Score], resampling: Resampling, name: str) -> KlPart:
    near, elsewhere = _sums(scores, "kl_near"), _sums(scores, "kl_elsewhere")
    return KlPart(
        near=resampling.mean(f"{name}.near", near),
        elsewhere=resampling.mean(f"{name}.elsewhere", elsewhere),
        ratio=resampling.ratio(f"{name}.ratio", near, elsewhere),
    )


def _sums(scores: Sequence[Score], name: str) -> Cells:
    return cells_of(scores, name)


def with_harness(rates: Rates, harness: Mapping[str, Rate]) -> Rates:
    """The harness's tasks beside the sets' own."""
    return rates.model_copy(update={"capability": {**rates.capability, **harness}})
