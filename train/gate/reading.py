"""From a report of `steer eval` to what the gate looks at.

Samples of one prompt resemble each other, so a prompt counts as one witness however often it was asked: a share over
samples becomes the same share over prompts, rounded to whole hits. With one sample a prompt nothing is lost.
"""

import hashlib
import json
import math

from train.evaluation.report import EvaluationReport, Kl, Rate
from train.gate.figures import Figures, Mean, Share
from train.gate.intervals import quantile

# Results of the lm-eval harness carry another kind of interval, and their own prompts: people read them, no gate does.
_HARNESS = "lm_eval:"


class UnreadableReport(ValueError):
    """A report lacks what the gate must see."""


def figures_of(report: EvaluationReport) -> Figures:
    """The figures of an evaluation's main variant. Raises UnreadableReport where one is missing."""
    rates = report.rates
    if rates.monitorability is None:
        raise UnreadableReport(
            f"{report.name}: no detector was run over the traces; set monitors = true and [monitor] of the evaluation"
        )
    capability = [rate for name, rate in rates.capability.items() if not name.startswith(_HARNESS)]
    if not capability:
        raise UnreadableReport(f"{report.name}: no set with checkable answers was asked; the gate needs one")
    return Figures(
        model=report.model.name,
        adapter=report.adapters[-1].name if report.adapters else None,
        judge=report.judge.name,
        detector=f"{rates.monitorability.detector}>={rates.monitorability.threshold:g}",
        prompts=_questions(report),
        harmful_reasoning=_share(report, "harmful_reasoning", rates.harmful_reasoning),
        harmful_answers=_share(report, "harmful_answer", rates.harmful_answer),
        over_refusal=_share(report, "over_refusal", rates.over_refusal),
        benign_compliance=_share(report, "benign_compliance", rates.benign_compliance),
        capability=_pooled(capability),
        detector_recall=_counted(rates.monitorability.recall),
        kl_off_cues=None if rates.kl is None else _mean(rates.kl, report.bootstrap.confidence),
    )


def _questions(report: EvaluationReport) -> str:
    """What was asked, and how: sets and decoding."""
    asked = [[part.name, part.format, part.sha256] for part in report.sets]
    told = json.dumps([sorted(asked), report.decoding.model_dump()], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def _share(report: EvaluationReport, name: str, rate: Rate | None) -> Share:
    if rate is None:
        raise UnreadableReport(f"{report.name}: no {name}: the gate needs harmful and benign prompts, judged")
    return _counted(rate)


def _counted(rate: Rate) -> Share:
    if rate.share is None:
        return Share(hits=0, n=0)
    return Share(hits=round(rate.share * rate.prompts), n=rate.prompts)


def _pooled(rates: list[Rate]) -> Share:
    shares = [_counted(rate) for rate in rates]
    return Share(hits=sum(share.hits for share in shares), n=sum(share.n for share in shares))


def _mean(kl: Kl, confidence: float) -> Mean | None:
    """Mean and standard deviation over prompts, taken back from the interval."""
    part = kl.elsewhere
    if part.value is None or part.low is None or part.high is None:
        return None
    half = (part.high - part.low) / 2
    return Mean(mean=part.value, sd=half * math.sqrt(part.prompts) / quantile(confidence), n=part.prompts)
