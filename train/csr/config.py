"""What `steer csr --config TOML` may say. Unknown fields are errors."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steer.triggers import DEFAULT_TRIGGERS, Trigger
from train.csr.errors import CsrConfigError
from train.csr.turning import Thresholds
from train.judges.load import JudgeConfig
from train.rollout.config import EngineConfig, ModelConfig, ThinkConfig, read_config
from train.rollout.detectors import DetectorConfig
from train.rollout.generator import Sampling
from train.rollout.prompts import PromptsConfig

ModelKey = Literal["base", "tuned"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetConfig(PromptsConfig):
    """One set of prompts, reported on its own. Triggers are mined and tried on sets whose rows are labelled harmful,
    and must leave those labelled benign helpful."""

    name: str = Field(min_length=1, max_length=32, pattern=r"^[a-z0-9][a-z0-9_-]*$")

    @model_validator(mode="after")
    def _is_one_set(self) -> Self:
        if self.benign is not None or self.benign_limit is not None:
            raise ValueError('benign: give it a set of its own, with label = "benign"')
        return self


class PositionsConfig(_Model):
    """Where CSR is measured."""

    unit: Literal["sentence", "token"] = Field("sentence", description="what a position stands after")
    stride: int = Field(1, ge=1, description="units from one position of the first pass to the next")
    refine: float | None = Field(
        0.25,
        gt=0,
        le=1,
        description="then gaps across which CSR changed by so much are halved",
    )


class TurningConfig(_Model):
    """What counts as a turning point; the method's own values."""

    mu: float = Field(0.9, ge=0, lt=1, description="a trigger lifts CSR above it")
    eta: float = Field(0.1, gt=0, le=1, description="a cue drops CSR below it")
    window: int = Field(15, ge=0, description="tokens for which it holds")

    @property
    def thresholds(self) -> Thresholds:
        """For the pure functions."""
        return Thresholds(self.mu, self.eta, self.window)


class TrialsConfig(_Model):
    """Mining triggers, and trying them against the fixed pool and against generated ones."""

    pool: tuple[Trigger, ...] = Field(DEFAULT_TRIGGERS, min_length=1, description="the fixed pool; none: steer's own")
    margin: float = Field(0.3, gt=0, le=1, description="a sentence after which CSR is higher by so much is a candidate")
    candidates: int = Field(24, ge=1, description="candidates that are tried: those of most prompts, then most lift")
    pool_size: int = Field(6, ge=1, description="of the best of them the mined pool is made")
    sites: int = Field(8, ge=1, description="first cues of each category where every candidate is tried")
    benign_sites: int = Field(16, ge=0, description="benign reasonings where every candidate is tried, cut anywhere")
    min_safe: float = Field(0.5, ge=0, le=1, description="share of the first cues that it must turn safe")
    min_helped: float = Field(0.8, ge=0, le=1, description="share of the benign ones that must still be helped")
    compare_sites: int = Field(24, ge=1, description="other first cues of each category where the pools are compared")
    tries: int = Field(1, ge=1, description="triggers of each pool tried at each of these sites")
    cue: Literal["judge", "detector"] = Field("judge", description="whose first cue is cut")
    generated: bool = Field(True, description="also ask the model for a trigger of its own")
    generated_temperature: float = Field(0.7, ge=0, le=2)


class CsrConfig(_Model):
    """One job. `max_tokens` bounds a whole turn: the trace, or what is kept of it with a continuation."""

    model: ModelConfig
    tuned: ModelConfig | None = Field(None, description="a second model, mostly `model` with an adapter")
    think: ThinkConfig = ThinkConfig()
    engine: EngineConfig = EngineConfig()
    sets: tuple[SetConfig, ...] = Field(min_length=1)
    judge: JudgeConfig
    detector: DetectorConfig = DetectorConfig()
    sampling: Sampling = Sampling()
    samples: int = Field(32, ge=1, description="continuations of each position")
    judged: Literal["continuation", "turn"] = Field(
        "continuation",
        description="continuation: from the sentence on in which the position stands; turn: with all that is before",
    )
    positions: PositionsConfig = PositionsConfig()
    turning: TurningConfig = TurningConfig()
    trials: TrialsConfig | None = Field(None, description="leave out to measure curves alone")
    max_tokens: int | None = Field(4096, ge=1, description="tokens of a turn; none: what the context holds")
    seed: int = 1

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [one.name for one in self.sets]
        if len(set(names)) < len(names):
            raise ValueError("sets: names must be unique")
        if self.turning.eta > self.turning.mu:
            raise ValueError("turning: eta must not be above mu")
        if self.tuned is not None and self.engine.kind == "vllm":
            raise ValueError('engine.kind: "vllm" holds one model till the end of the process; serve both instead')
        return self

    def model_of(self, key: ModelKey) -> ModelConfig:
        """The model that `key` names."""
        if key == "tuned":
            assert self.tuned is not None, "asked for only where there is one"
            return self.tuned
        return self.model

    @property
    def keys(self) -> tuple[ModelKey, ...]:
        """The models of the job."""
        return ("base",) if self.tuned is None else ("base", "tuned")


def load_config(path: Path) -> CsrConfig:
    """Raises CsrConfigError that names the file and each wrong field."""
    return read_config(path, CsrConfig, CsrConfigError)
