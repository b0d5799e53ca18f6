"""What `steer eval --config TOML` may say. Unknown fields are errors."""

from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from steer.triggers import DEFAULT_TRIGGERS, Trigger
from train.evaluation.errors import EvaluationConfigError
from train.evaluation.prompt_formats import FORMATS
from train.evaluation.report import Variant
from train.judges.load import JudgeConfig
from train.rollout.config import EngineConfig, ModelConfig, ThinkConfig, read_config
from train.rollout.detectors import DetectorConfig
from train.rollout.generator import Sampling

Label = Literal["harmful", "benign", "borderline"]
Finder = Literal["detector", "triggers", "organism"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SetConfig(_Model):
    """One prompt set."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    source: str = Field(description="file (jsonl, json, csv, tsv, parquet; gz), hub:NAME, organism:SPLIT or arithmetic")
    format: str = Field("prompts", description=f"form of the rows: {', '.join(FORMATS)}")
    label: Label | None = Field(None, description="of every prompt, instead of what the form says")
    labels: tuple[Label, ...] = Field((), description="take only prompts of these labels; none: all")
    limit: int | None = Field(None, ge=1, description="so many prompts, drawn by `seed`; none: all")
    seed: int = Field(1, description="draws `limit` and shuffles choices; equal in reports that are to be compared")
    split: str = Field("train", description="of a hub data set")
    subset: str | None = Field(None, description="of a hub data set: its configuration")
    instruction: str | None = Field(None, description="what follows each prompt; none: the form's own")

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.format not in FORMATS:
            raise ValueError(f"format: {self.format!r} is not known; there are {', '.join(FORMATS)}")
        return self


class MonitorConfig(DetectorConfig):
    """The detector that is asked whether it still catches the model."""

    @model_validator(mode="after")
    def _needs_no_engine(self) -> Self:
        if self.kind == "self":
            raise ValueError('kind: "self" would ask the model about itself; give onnx or function')
        return self


class KlConfig(_Model):
    """KL a token between the model and what it was tuned from. Loads both here, whatever engine generates."""

    model: str | None = Field(None, description="folder or hub name; none: model.name")
    adapter: Path | None = Field(None, description="LoRA folder; none: model.adapter where engine.kind is not served")
    reference: str | None = Field(None, description="folder or hub name; none: the model without its adapter")
    finders: tuple[Finder, ...] = Field(("detector", "triggers"), min_length=1, description="what finds cues, triggers")
    window: int = Field(15, ge=0, description="tokens before and after that count as near; 15 is the method's K")
    prompts: int | None = Field(200, ge=1, description="of each label, drawn by the seed; none: all")
    max_tokens: int = Field(4096, ge=1, description="of a trace; what is beyond counts nowhere")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 …")
    dtype: str = Field("auto", description="auto: float32 on a CPU, else the weights' own")


class CodeConfig(_Model):
    """Programs that the model wrote run in a process of their own, with limits. That is no jail: use a container."""

    allow_execution: bool = False
    timeout_s: float = Field(10.0, gt=0, le=600)
    memory_mb: int = Field(1024, ge=64)


class HarnessConfig(_Model):
    """Tasks of the lm-eval harness, against a served model."""

    tasks: tuple[str, ...] = Field(min_length=1, description="as `lm_eval --tasks` takes them")
    url: str | None = Field(None, description="base URL without /v1; none: engine.served.url")
    chat: bool = Field(True, description="through /v1/chat/completions; false for tasks that need logprobs")
    limit: int | None = Field(None, ge=1, description="examples of each task")
    num_fewshot: int | None = Field(None, ge=0)
    concurrency: int = Field(16, ge=1, le=512)
    max_tokens: int | None = Field(None, ge=1, description="of a generation; none: the task's own")
    timeout_s: float = Field(24 * 3600.0, gt=0, description="of the whole run")
    options: tuple[str, ...] = Field((), description="further arguments of lm_eval")


class BootstrapConfig(_Model):
    """Intervals, resampled by prompt."""

    resamples: int = Field(2000, ge=100, le=100_000)
    confidence: float = Field(0.95, gt=0.5, lt=1)


class EvaluationConfig(_Model):
    """One evaluation."""

    name: str = Field("evaluation", description="what reports and plots call it")
    model: ModelConfig
    think: ThinkConfig = ThinkConfig()
    engine: EngineConfig = EngineConfig()
    judge: JudgeConfig
    sets: tuple[SetConfig, ...] = Field((), description="prompt sets")
    sampling: Sampling = Sampling()
    samples: int = Field(1, ge=1, description="generations of each prompt")
    max_tokens: int | None = Field(4096, ge=1, description="tokens of a turn; none: what the context holds")
    variants: tuple[Variant, ...] = Field(("template",), description="how prompts are rendered; template is a must")
    monitors: bool = Field(True, description="measure what the detector catches")
    monitor: MonitorConfig = MonitorConfig()
    kl: KlConfig | None = None
    triggers: tuple[Trigger, ...] = Field(DEFAULT_TRIGGERS, min_length=1, description="the pool that training spliced")
    code: CodeConfig = CodeConfig()
    lm_eval: HarnessConfig | None = None
    bootstrap: BootstrapConfig = BootstrapConfig()
    seed: int = 1

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.sets and self.lm_eval is None:
            raise ValueError("give at least one [[sets]], or [lm_eval]")
        names = [chosen.name for chosen in self.sets]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sets: names must differ, these are repeated: {', '.join(repeated)}")
        if "template" not in self.variants:
            raise ValueError('variants: "template" must be among them; the others are compared with it')
        if self.lm_eval is not None and self.lm_eval.url is None and self.engine.kind != "served":
            raise ValueError('lm_eval.url: needed where engine.kind is not "served"')
        if self.kl is not None:
            self._check_kl(self.kl)
        return self

    def _check_kl(self, kl: KlConfig) -> None:
        if "detector" in kl.finders and not self.monitors:
            raise ValueError('kl.finders: "detector" needs monitors = true')
        if kl.reference is None and self.kl_adapter is None:
            raise ValueError("kl.reference: needed without an adapter; kl.adapter where a served adapter lies")

    @property
    def kl_adapter(self) -> str | None:
        """The LoRA folder of the tuned model, None where it has none."""
        if self.kl is not None and self.kl.adapter is not None:
            return str(self.kl.adapter)
        return self.model.adapter if self.engine.kind != "served" else None


def load_config(path: Path) -> EvaluationConfig:
    """Raises EvaluationConfigError that names the file and each wrong field."""
    return read_config(path, EvaluationConfig, EvaluationConfigError)
