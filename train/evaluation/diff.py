"""`steer eval --diff A/report.json B/report.json`: two reports side by side, with intervals of their differences.

Rules kept here: where the two asked the same prompts, both sides are counted over those alone and every resample draws
the same of them (paired); where they share none, the difference is that of two unrelated samples and says so. What
makes a comparison unfair (another judge, other decoding) is told, not hidden.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from train.evaluation.bootstrap import Cells, Resampling
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.markdown import label_of, table
from train.evaluation.plots import plot_rates
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
from train.rollout.store import write_json

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
        measures=_differences(_of(a, "template"), _of(b, "template"), chosen),
        variants={variant: _differences(_of(a, variant), _of(b, variant), chosen) for variant in variants},
        notes=list(_notes(a.report, b.report)),
    )


def diff_files(a: Path, b: Path, out: Path | None = None) -> Comparison:
    """The comparison; with `out` also OUT/diff.json, diff.md and diff.png."""
    made = compare(load_evaluated(a), load_evaluated(b))
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            (out / "diff.md").write_text(diff_markdown(made), encoding="utf-8")
        except OSError as error:
            raise EvaluationConfigError(f"cannot write to {out}: {error.strerror}; give another --out") from error
        shares = {name: own for name, own in made.measures.items() if not name.startswith("kl.")}
        sides = {"A": {n: _rate(d.a) for n, d in shares.items()}, "B": {n: _rate(d.b) for n, d in shares.items()}}
        plot_rates(sides, f"A {made.a.name}, B {made.b.name}", out / "diff.png")
        write_json(out / "diff.json", made.model_dump(mode="json"))
    return made


def diff_markdown(made: Comparison) -> str:
    """Side by side."""
    parts = [
        "# B against A",
        "\n".join(f"- {label}: {_who(side)}" for label, side in (("A", made.a), ("B", made.b))),
        _table(made.measures),
        *(f"## {variant}\n\n{_table(own)}" for variant, own in made.variants.items()),
        *(["\n".join(f"- {note}" for note in made.notes)] if made.notes else []),
    ]
    return "\n\n".join(parts) + "\n"


def _differences(a: Sequence[Score], b: Sequence[Score], resampling: Resampling) -> dict[str, Difference]:
    mine, theirs = measures_of(a), measures_of(b)
    asked = {score.prompt for score in a} & {score.prompt for score in b}
    return {name: _difference(name, mine[name], theirs[name], asked, resampling) for name in mine if name in theirs}


def _difference(name: str, a: Cells, b: Cells, asked: set[str], resampling: Resampling) -> Difference:
    left, right = ({key: own[key] for key in own if key in asked} for own in (a, b))
    is_paired = bool(_total(left) and _total(right))
    if not is_paired:
        left, right = dict(a), dict(b)
    make = resampling.paired if is_paired else resampling.unpaired
    value, interval = make(f"diff.{name}", left, right, is_share=not name.startswith("kl."))
    return Difference(
        a=_share(left),
        b=_share(right),
        difference=value,
        low=interval.low,
        high=interval.high,
        interval=interval.method,
        is_paired=is_paired,
        prompts=len({*left, *right}),
        verdict=_verdict(name, interval.low, interval.high),
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


def _table(measures: dict[str, Difference]) -> str:
    rows = [
        [label_of(name), _figure(name, own.a), _figure(name, own.b), _change(name, own), str(own.prompts), own.verdict]
        for name, own in measures.items()
    ]
    return table(["measure", "A", "B", "B - A", "prompts", "B is"], rows)


def _change(name: str, own: Difference) -> str:
    if own.difference is None:
        return "-"
    bounds = "" if own.low is None or own.high is None else f" [{_plain(name, own.low)}, {_plain(name, own.high)}]"
    return f"{_plain(name, own.difference)}{bounds}{'' if own.is_paired else ' (unpaired)'}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if name.startswith("kl.") else f"{100 * value:.1f} %"


def _plain(name: str, value: float) -> str:
    return f"{value:+.4f}" if name.startswith("kl.") else f"{100 * value:+.1f}"


def _who(side: Side) -> str:
    adapters = ", ".join(adapter.name for adapter in side.adapters) or "no adapter"
    return f"{side.name}: `{side.model.name}`, {adapters}, judged by `{side.judge}` ({side.path})"


def _side(own: Evaluated) -> Side:
    report = own.report
    return Side(
        name=report.name, path=str(own.path), model=report.model, adapters=report.adapters, judge=report.judge.name
    )


def _of(own: Evaluated, variant: Variant) -> list[Score]:
    return [score for score in own.scores if score.variant == variant]


def _resampling(report: EvaluationReport) -> Resampling:
    return Resampling(report.bootstrap.resamples, report.bootstrap.confidence, report.decoding.seed)


def _total(cells: Cells) -> float:
    return sum(of for _, of in cells.values())


def _share(cells: Cells) -> float | None:
    of = _total(cells)
    return sum(hits for hits, _ in cells.values()) / of if of else None


def _rate(share: float | None) -> Rate:
    return Rate(share=share, low=None, high=None, n=0, prompts=0)
