"""Two reports compared: differences with intervals, and what makes the comparison less than fair.

Rules kept here: where the two asked the same prompts, both sides are counted over those alone and every resample draws
the same of them (paired); where they share none, the difference is that of two unrelated samples and says so. What
makes a comparison unfair (another judge, other decoding) is told, not hidden.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from train.evaluation.bootstrap import Cells, Resampling, Sides
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.report import (
    AdapterIdentity,
    EvaluationReport,
    IntervalMethod,
    ModelIdentity,
    Rate,
    Variant,
    read_report,
)
from train.evaluation.scores import Score, measures_of, read_scores
from train.rollout.report import file_sha256

# Measures that are better when they fall; the others are better when they rise.
_LOWER = frozenset({
    *("harmful_reasoning", "harmful_answer", "harmful", "over_refusal", "borderline_refusal"),
    *("monitorability.hidden_harm", "monitorability.false_flags", "kl.near", "kl.elsewhere"),
})  # fmt: skip
Verdict = Literal["better", "worse", "unclear"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Frozen):
    """Whose figures they are."""

    name: str
    path: str
    model: ModelIdentity
    adapters: list[AdapterIdentity]
    judge: str


class Difference(_Frozen):
    """b - a. KL measures are in nats, all others are shares. `verdict` is unclear where the interval holds 0."""

    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    interval: IntervalMethod | None
    is_paired: bool
    prompts: int = Field(description="that both sides are counted over; unpaired: of both together")
    verdict: Verdict


class Comparison(_Frozen):
    """diff.json. `notes` say what makes it less than a like-for-like comparison."""

    job: Literal["eval-diff"] = "eval-diff"
    schema_version: int = 1
    a: Side
    b: Side
    confidence: float
    measures: dict[str, Difference]
    variants: dict[Variant, dict[str, Difference]] = Field(default_factory=dict)
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A report with the counts behind it."""

    path: Path
    report: EvaluationReport
    scores: list[Score]


def load_evaluated(path: Path) -> Evaluated:
    """A report.json (or its folder) and the scores beside it. Raises EvaluationConfigError."""
    file = path / "report.json" if path.is_dir() else path
    report = read_report(file)
    scores = file.with_name(report.scores.file)
    found = read_scores(scores)
    if file_sha256(scores) != report.scores.sha256:
        raise EvaluationConfigError(f"{scores} is not the file that {file} was made with; take both from one run")
    return Evaluated(file, report, found)


def compare(a: Evaluated, b: Evaluated, resampling: Resampling | None = None) -> Comparison:
    """b against a. `resampling` None: as the report of a says."""
    chosen = resampling or _resampling(a.report)
    variants = [variant for variant in a.report.variants if variant in b.report.variants]
    return Comparison(
        a=_side(a),
        b=_side(b),
        confidence=chosen.confidence,
        measures={**_differences(_of(a, "template"), _of(b, "template"), chosen), **_harness(a.report, b.report)},
        variants={variant: _differences(_of(a, variant), _of(b, variant), chosen) for variant in variants},
        notes=list(_notes(a.report, b.report)),
    )


def _differences(a: Sequence[Score], b: Sequence[Score], resampling: Resampling) -> dict[str, Difference]:
    mine, theirs = measures_of(a), measures_of(b)
    asked = {score.prompt for score in a} & {score.prompt for score in b}
    made = {
        name: _difference(name, {name: (mine[name], theirs[name])}, asked, resampling)
        for name in mine
        if name in theirs
    }
    tasks = {name: (mine[name], theirs[name]) for name in made if name.startswith("capability.")}
    if tasks and all(made[name].is_paired for name in tasks):
        made["capability_mean"] = _difference("capability_mean", tasks, asked, resampling)
    return made


def _difference(name: str, sets: Mapping[str, Sides], asked: set[str], resampling: Resampling) -> Difference:
    """Of one measure; of several sets the mean."""
    shared: Mapping[str, Sides] = {key: (_among(a, asked), _among(b, asked)) for key, (a, b) in sets.items()}
    is_paired = all(_share(a) is not None and _share(b) is not None for a, b in shared.values())
    is_share = not name.startswith("kl.")
    if is_paired:
        value, interval = resampling.paired(f"diff.{name}", shared, is_share=is_share)
    else:
        shared = sets
        value, interval = resampling.unpaired(f"diff.{name}", shared[name], is_share=is_share)
    return Difference(
        a=_mean(_share(a) for a, _ in shared.values()),
        b=_mean(_share(b) for _, b in shared.values()),
        difference=value,
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        is_paired=is_paired,
        prompts=sum(len(_counted(a) | _counted(b)) for a, b in shared.values()),
        verdict=_verdict(name, interval.low, interval.high),
    )


def _harness(a: EvaluationReport, b: EvaluationReport) -> dict[str, Difference]:
    """The tasks of lm-eval that both have, of whose examples nothing is known: unpaired, by their own intervals."""
    mine, theirs = a.rates.capability, b.rates.capability
    names = [name for name in mine if name.startswith("lm_eval:") and name in theirs]
    return {f"capability.{name}": _of_rates(name, mine[name], theirs[name]) for name in names}


def _of_rates(name: str, a: Rate, b: Rate) -> Difference:
    low = high = gap = None
    if a.share is not None and b.share is not None:
        gap = b.share - a.share
        if a.low is not None and a.high is not None and b.low is not None and b.high is not None:
            half = math.hypot((a.high - a.low) / 2, (b.high - b.low) / 2)
            low, high = gap - half, gap + half
    return Difference(
        a=a.share,
        b=b.share,
        difference=gap,
        low=low,
        high=high,
        interval=None if low is None else "stderr",
        is_paired=False,
        prompts=a.prompts + b.prompts,
        verdict=_verdict(name, low, high),
    )


def _verdict(name: str, low: float | None, high: float | None) -> Verdict:
    if low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "better" if (high < 0) == (name in _LOWER) else "worse"


def _notes(a: EvaluationReport, b: EvaluationReport) -> Iterable[str]:
    if a.judge.name != b.judge.name:
        yield f"the judges differ: A {a.judge.name}, B {b.judge.name}"
    if a.decoding != b.decoding:
        yield f"decoding differs: A {a.decoding.model_dump()}, B {b.decoding.model_dump()}"
    if a.model != b.model:
        yield f"the models differ: A {a.model.name}, B {b.model.name}"
    mine, theirs = ({chosen.name: chosen.sha256 for chosen in report.sets} for report in (a, b))
    for name in sorted({*mine, *theirs}):
        if mine.get(name) != theirs.get(name):
            only = "" if name in mine and name in theirs else f", only in {'A' if name in mine else 'B'}"
            yield f"the set {name} is not the same in both{only}: counted over shared prompts where there are any"
    detectors = [None if r.rates.monitorability is None else r.rates.monitorability.detector for r in (a, b)]
    if None not in detectors and detectors[0] != detectors[1]:
        yield f"the monitored detectors differ: A {detectors[0]}, B {detectors[1]}"


def _side(own: Evaluated) -> Side:
    report = own.report
    return Side(
        name=report.name, path=str(own.path), model=report.model, adapters=report.adapters, judge=report.judge.name
    )


def _of(own: Evaluated, variant: Variant) -> list[Score]:
    return [score for score in own.scores if score.variant == variant]


def _resampling(report: EvaluationReport) -> Resampling:
    return Resampling(report.bootstrap.resamples, report.bootstrap.confidence, report.decoding.seed)


def _among(cells: Cells, asked: set[str]) -> dict[str, tuple[float, float]]:
    return {key: own for key, own in cells.items() if key in asked}


def _counted(cells: Cells) -> set[str]:
    return {key for key, (_, of) in cells.items() if of}


def _share(cells: Cells) -> float | None:
    of = sum(of for _, of in cells.values())
    return sum(hits for hits, _ in cells.values()) / of if of else None


def _mean(shares: Iterable[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None
