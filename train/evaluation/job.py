"""One evaluation, stage by stage: sample, judge, mark, compare with the reference, count. Each can be resumed.

`evaluate` is the entry for callers with an engine and a judge of their own; `train.evaluation.run` makes both of a
config.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from train.evaluation.bootstrap import Resampling
from train.evaluation.counting import count_all
from train.evaluation.divergence import Divergence, Near, TwoModels, diverge_all
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.identity import versions
from train.evaluation.judging import judge_all
from train.evaluation.markdown import markdown
from train.evaluation.marks import mark_all
from train.evaluation.plots import plot_report
from train.evaluation.report import (
    AdapterIdentity,
    Bootstrap,
    Decoding,
    EvaluationReport,
    JudgeIdentity,
    ModelIdentity,
    Rate,
    ScoresFile,
    Variant,
    read_report,
)
from train.evaluation.sandbox import Limits
from train.evaluation.scores import SCORES, Score
from train.evaluation.sets import PromptSet
from train.evaluation.summary import KlIdentity, MonitorIdentity, rates_of, set_report, with_harness
from train.evaluation.turns import Drawing, asks, sample_all
from train.judges.base import Judge, is_detector
from train.rollout.detectors import Detector
from train.rollout.generator import Generated, Generator, Request, Sampling
from train.rollout.report import file_sha256
from train.rollout.store import claim, write_json
from train.rollout.vocabulary import Vocabulary

REPORT = "report.json"
_PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with the sets."""

    name: str = "evaluation"
    drawing: Drawing = field(default_factory=Drawing)
    variants: tuple[Variant, ...] = ("template",)
    near: Near = field(default_factory=Near)
    limits: Limits = field(default_factory=Limits)
    allows_code: bool = False
    resampling: Resampling = field(default_factory=Resampling)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated, and by whom. `detector` and `models` (for KL) None: not measured."""

    generator: Callable[[], Generator]
    vocabulary: Vocabulary
    judge: Judge
    model: ModelIdentity
    adapters: tuple[AdapterIdentity, ...] = ()
    detector: Detector | None = None
    models: Callable[[], TwoModels] | None = None


@dataclass(frozen=True, slots=True)
class Extra:
    """What stands in the report besides: the config, and what lm-eval found."""

    config: dict[str, Any]
    harness: Callable[[], dict[str, Any]] | None = None
    harness_rates: Callable[[dict[str, Any]], Mapping[str, Rate]] | None = None


class _Open:
    """The caller's generator, which is the caller's to close."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator

    @property
    def context_length(self) -> int | None:
        return self._generator.context_length

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        return self._generator.generate(requests, sampling)

    def close(self) -> None:
        pass


def evaluate(
    generator: Generator,
    vocabulary: Vocabulary,
    judge: Judge,
    sets: Sequence[PromptSet],
    out: Path,
    *,
    plan: Plan = Plan(),
    model: ModelIdentity,
    adapters: Sequence[AdapterIdentity] = (),
    detector: Detector | None = None,
    models: Callable[[], TwoModels] | None = None,
) -> EvaluationReport:
    """An evaluation in this process; `out` is the job's folder, and a second call with the same input goes on in it.

    Raises EvaluationConfigError, RolloutError, JudgeError, DetectorError.
    """
    adapters = tuple(adapters)
    subject = Subject(lambda: _Open(generator), vocabulary, judge, model, adapters, detector, models)
    settings: dict[str, Any] = TypeAdapter(Plan).dump_python(plan, mode="json")
    identity: list[Any] = [model.model_dump(), [adapter.model_dump() for adapter in adapters], judge.name]
    identity += [] if detector is None else [[detector.digest, detector.threshold]]
    key = [settings, identity, [chosen.sha256 for chosen in sets]]
    claim(out, key_of(key), settings, EvaluationConfigError)
    return work(sets, subject, plan, Extra(settings), out)


def key_of(parts: Any) -> str:
    """The identity of a job."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def work(sets: Sequence[PromptSet], subject: Subject, plan: Plan, extra: Extra, out: Path) -> EvaluationReport:
    """All stages, in a folder that is claimed."""
    if (out / REPORT).exists():
        return read_report(out / REPORT)
    _check(sets, subject, plan)
    clock, rows = _Clock(out), asks(sets, plan.variants)
    sample_all(rows, subject.generator, subject.vocabulary, plan.drawing, out)
    clock.keep()
    verdicts, cost = judge_all(subject.judge, out)
    clock.keep()
    marks = mark_all(rows, subject.detector, plan.limits, out)
    clock.keep()
    divergences = None
    if subject.models is not None:
        divergences = diverge_all(subject.models, marks, subject.vocabulary, plan.near, out)
        clock.keep()
    scores, counts = count_all(out, marks, verdicts, divergences)
    harness = extra.harness() if extra.harness is not None else None
    report = EvaluationReport(
        name=plan.name,
        model=subject.model,
        adapters=list(subject.adapters),
        judge=JudgeIdentity(name=subject.judge.name, cost=cost),
        decoding=_decoding(plan.drawing),
        bootstrap=Bootstrap(resamples=plan.resampling.resamples, confidence=plan.resampling.confidence),
        **_rates(scores, subject, plan, divergences, harness, extra),
        sets=[set_report(chosen, scores, plan.resampling) for chosen in sets],
        counts=counts,
        harness=harness,
        scores=ScoresFile(file=SCORES, sha256=file_sha256(out / SCORES)),
        seconds=clock.keep(),
        versions=versions(),
        config=extra.config,
    )
    plot_report(report, out)
    (out / "report.md").write_text(markdown(report), encoding="utf-8")
    write_json(out / REPORT, report.model_dump(mode="json"))
    return report


def _check(sets: Sequence[PromptSet], subject: Subject, plan: Plan) -> None:
    """What would only show after hours."""
    if subject.detector is not None and is_detector(subject.judge.name, subject.detector.digest):
        raise EvaluationConfigError(f"judge.spec: {subject.judge.name} is the detector that is monitored; take another")
    for chosen in sets:
        if not plan.allows_code and any(item.check is not None and item.check.kind == "code" for item in chosen.items):
            raise EvaluationConfigError(
                f"sets.{chosen.name}: its answers are programs, which would be run here; set code.allow_execution = "
                "true (in a container), or leave the set out"
            )


def _rates(
    scores: Sequence[Score],
    subject: Subject,
    plan: Plan,
    divergences: Sequence[Divergence] | None,
    harness: dict[str, Any] | None,
    extra: Extra,
) -> dict[str, Any]:
    """The fields `rates` and `variants`."""
    detector = subject.detector
    monitor = None if detector is None else MonitorIdentity(detector.digest, detector.threshold)
    kl = None
    if divergences is not None:
        reference = plan.near.reference
        kl = KlIdentity(reference, plan.near.finders, plan.near.window, sum(own.traces for own in divergences))
    made = {
        variant: rates_of(
            [own for own in scores if own.variant == variant],
            plan.resampling,
            monitor,
            kl if variant == "template" else None,
        )
        for variant in plan.variants
    }
    rates = made.pop("template")
    if harness is not None and extra.harness_rates is not None:
        rates = with_harness(rates, extra.harness_rates(harness))
    return {"rates": rates, "variants": made}


def _decoding(drawing: Drawing) -> Decoding:
    sampling = drawing.sampling
    return Decoding(
        samples=drawing.samples,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=drawing.max_tokens,
        seed=drawing.seed,
    )


class _Clock:
    """Wall seconds over every start of the job, up to the last finished stage."""

    def __init__(self, out: Path) -> None:
        self._path, self._began = out / _PROGRESS, time.monotonic()
        try:
            self._before = float(json.loads(self._path.read_text(encoding="utf-8"))["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            self._before = 0.0

    def keep(self) -> float:
        """Written down, and given."""
        seconds = round(self._before + time.monotonic() - self._began, 2)
        write_json(self._path, {"seconds": seconds})
        return seconds
