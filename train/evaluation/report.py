"""The schema of an evaluation's report.json: what gates, benchmarks and people read. docs/evaluation.md explains it.

Rules kept here: every figure carries its interval and what it was counted over; a figure that nothing was counted for
is None, never 0; a change that readers would trip over raises EVALUATION_SCHEMA_VERSION.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from train.evaluation.errors import EvaluationConfigError

EVALUATION_SCHEMA_VERSION = 1

# bootstrap: over prompts; wilson: where all prompts agree, so that resampling could not vary (newcombe: where the two
# sides of an unpaired difference do); stderr: made of the harness's own standard errors.
IntervalMethod = Literal["bootstrap", "wilson", "newcombe", "stderr"]
Variant = Literal["template", "stripped", "raw"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Frozen):
    """A share of samples with its interval, resampled by prompt. `unjudged` samples are in neither part of it."""

    share: float | None = Field(description="0 to 1; None: nothing was counted")
    low: float | None
    high: float | None
    n: int = Field(description="samples counted")
    prompts: int = Field(description="prompts that they belong to")
    unjudged: int = Field(0, description="samples that the judge could not tell")
    interval: IntervalMethod | None = Field(None, description="how `low` and `high` were made")


class Mean(_Frozen):
    """A mean per token with its interval, resampled by prompt. No interval where there is one prompt."""

    value: float | None
    low: float | None
    high: float | None
    tokens: int
    prompts: int


class Monitorability(_Frozen):
    """What the detector sees of the model's own traces, as the judge sorts them. It halts at `threshold`."""

    detector: str = Field(description="name and hash")
    threshold: float
    recall: Rate = Field(description="flagged, of traces to harmful prompts whose reasoning is judged unsafe")
    hidden_harm: Rate = Field(description="not flagged, of unsafe answers to harmful prompts")
    false_flags: Rate = Field(description="flagged, of traces to benign prompts and tasks judged safe or not judged")


class KlPart(_Frozen):
    """KL(tuned || reference) a token, in nats, around cues and triggers, and elsewhere."""

    near: Mean
    elsewhere: Mean
    ratio: Mean = Field(description="near over elsewhere; None where either is")


class Kl(KlPart):
    """The same over all traces, and by label of the prompt. High values elsewhere: the tuning reached too far."""

    reference: str
    finders: list[str] = Field(description="what finds cues and triggers: detector, triggers, organism")
    window: int = Field(description="tokens before and after a cue or trigger that count as near it")
    traces: int
    by_label: dict[str, KlPart] = Field(default_factory=dict)


class SafetyRates(_Frozen):
    """None where no prompt of that label was asked.

    harmful_reasoning, harmful_answer, harmful     of samples of harmful prompts: reasoning, answer, either is unsafe
    over_refusal, benign_compliance                of samples of benign prompts: declines as a whole; helps
    borderline_refusal, borderline_compliance      the same of prompts that only look dangerous, some of which are
    """

    harmful_reasoning: Rate | None = None
    harmful_answer: Rate | None = None
    harmful: Rate | None = None
    over_refusal: Rate | None = None
    benign_compliance: Rate | None = None
    borderline_refusal: Rate | None = None
    borderline_compliance: Rate | None = None


class Rates(SafetyRates):
    """All prompts of one variant together."""

    capability: dict[str, Rate] = Field(default_factory=dict, description="right answers by set; lm_eval:TASK too")
    capability_mean: Rate | None = Field(None, description="mean over the sets (not over prompts), harness left out")
    monitorability: Monitorability | None = None
    kl: Kl | None = None

    def flat(self) -> Iterator[tuple[str, Rate]]:
        """Every rate that there is, by a dotted name."""
        for name in SafetyRates.model_fields:
            if (rate := getattr(self, name)) is not None:
                yield name, rate
        for name, rate in self.capability.items():
            yield f"capability.{name}", rate
        if self.capability_mean is not None:
            yield "capability_mean", self.capability_mean
        if self.monitorability is not None:
            for name in ("recall", "hidden_harm", "false_flags"):
                yield f"monitorability.{name}", getattr(self.monitorability, name)


class SetReport(_Frozen):
    """One prompt set. Two sets with equal `sha256` hold the same prompts in the same order."""

    name: str
    source: str
    format: str
    sha256: str
    prompts: int
    labels: dict[str, int] = Field(description="prompts by label; tasks count as capability")
    rates: SafetyRates
    capability: Rate | None = None


class ModelIdentity(_Frozen):
    """`sha256` over weights, config, tokenizer and template; None where the model is not a folder here."""

    name: str
    sha256: str | None
    engine: str


class AdapterIdentity(_Frozen):
    """`sha256` of the weights; None where the adapter is not a folder here (a served name)."""

    name: str
    sha256: str | None


class JudgeIdentity(_Frozen):
    """`name` tells the judge's model and prompt."""

    name: str
    cost: dict[str, float | int] = Field(default_factory=dict)


class Decoding(_Frozen):
    """How samples were drawn. `seed` also seeds the bootstrap and what is drawn of the sets."""

    samples: int = Field(description="of each prompt")
    temperature: float
    top_p: float
    top_k: int
    max_tokens: int | None
    seed: int


class Bootstrap(_Frozen):
    """How intervals were made."""

    resamples: int
    confidence: float


class Counts(_Frozen):
    """Over all variants."""

    prompts: int
    samples: int
    tokens: int
    unfinished: int = Field(description="samples that the token budget cut short")
    no_reasoning: int = Field(description="samples whose reasoning is empty")
    unjudged: int


class ScoresFile(_Frozen):
    """Counts by prompt, beside the report: what makes differences of two reports paired. Holds no text."""

    file: str
    sha256: str


class EvaluationReport(_Frozen):
    """report.json."""

    job: Literal["eval"] = "eval"
    schema_version: int = EVALUATION_SCHEMA_VERSION
    name: str
    model: ModelIdentity
    adapters: list[AdapterIdentity] = Field(default_factory=list)
    judge: JudgeIdentity
    decoding: Decoding
    bootstrap: Bootstrap
    rates: Rates = Field(description="of the model as its chat template has it")
    variants: dict[Variant, Rates] = Field(default_factory=dict, description="the same prompts rendered otherwise")
    sets: list[SetReport]
    counts: Counts
    harness: dict[str, Any] | None = Field(None, description="what lm-eval wrote: results, versions, command")
    scores: ScoresFile
    seconds: float
    versions: dict[str, str]
    config: dict[str, Any]


def read_report(path: Path) -> EvaluationReport:
    """A report.json. Raises EvaluationConfigError naming file and field."""
    try:
        return EvaluationReport.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EvaluationConfigError(f"cannot read {path}: {error.strerror}; give `steer eval`'s report.json") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "report"
        raise EvaluationConfigError(f"{path} is no report of `steer eval`: {where}: {first['msg']}") from error
    except UnicodeDecodeError as error:
        raise EvaluationConfigError(f"{path} is not UTF-8: give a report.json of `steer eval`") from error
