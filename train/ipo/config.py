"""Settings of the jobs that train weights, read from TOML. Every field has a reason; unknown fields are errors.

This module loads neither torch nor transformers, so that a wrong config fails at once.
"""

import tomllib
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from train.ipo.errors import IpoConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Pairs, one JSON object of `steer.pair.Pair` a line. A pair's kind decides the stage that it trains in."""

    pairs: tuple[Path, ...] = Field(description="files of intervened pairs; benign pairs among them wait for stage 2")
    benign: tuple[Path, ...] = Field((), description="files that hold benign pairs alone, for stage 2")
    validation: tuple[Path, ...] = Field((), description="files of pairs held out of training, scored after each stage")
    max_length: int = Field(4096, ge=8, description="most tokens of prompt, kept reasoning and one side together")
    too_long: Literal["refuse", "skip"] = Field(
        "refuse", description="what a longer pair does: end the job, or be left out and counted"
    )
    think_markers: tuple[str, str] = Field(
        ("<think>", "</think>"), description="what opens and closes reasoning; the chat template must know them"
    )

    @model_validator(mode="after")
    def _has_pairs(self) -> "DataConfig":
        if not self.pairs:
            raise ValueError("pairs names no file")
        return self


class LoraSettings(_Section):
    """The adapter. Dropout is off: the reference pass and the policy pass must differ by the weights alone."""

    rank: int = Field(16, ge=1, description="rank of each update")
    alpha: int = Field(32, ge=1, description="scale of an update: alpha / rank")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        "all-linear", description="names of the linear layers that get an update; never the LM head"
    )


class LossConfig(_Section):
    """Segment DPO plus SFT on the chosen segment, triggers included in both."""

    beta: float = Field(0.1, gt=0, description="strength of the pull to the reference; not known of the paper")
    sft_weight: float = Field(0.2, ge=0, description="weight of the auxiliary SFT term; 0.2 in the paper")


class StageConfig(_Section):
    """One stage of training; `epochs = 0` leaves it out."""

    epochs: float = Field(1.0, ge=0, description="passes over the stage's pairs")
    learning_rate: float = Field(2e-5, gt=0, description="peak; warm-up, then a cosine to zero")


class TrainSettings(_Section):
    """How the steps are run."""

    method: Literal["lora", "full"] = Field("lora", description="train an adapter, or all weights")
    batch_size: int = Field(4, ge=1, description="pairs of one step on one device")
    accumulation: int = Field(1, ge=1, description="steps whose gradients are summed before an update")
    warmup_ratio: float = Field(0.1, ge=0, lt=1, description="share of a stage's updates that warm up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    gradient_checkpointing: bool = Field(True, description="recompute activations: less memory, a third more work")
    attention: Literal["auto", "sdpa", "flex", "off"] = Field(
        "auto", description="prefix sharing: auto picks flex_attention for long rows on a GPU, else sdpa; off: two rows"
    )
    precompute_reference: bool = Field(
        False,
        description="score the reference once before training: pays from two epochs on; in full training it"
        " frees the reference's memory",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU where there is one")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 on a GPU, fp32 on a CPU")
    threads: int = Field(0, ge=0, description="torch threads on a CPU; 0 leaves torch's own choice")
    checkpoint_every: int = Field(50, ge=1, description="updates between checkpoints; a killed job goes on from one")
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...] = Field(
        (), description="live curves, as transformers writes them; the package of that name must be installed"
    )


class JobConfig(_Section):
    """What all jobs that train weights have in common."""

    name: str = Field("ipo", min_length=1, description="name of the run in reports and live curves")
    model: str = Field(min_length=1, description="hub name or folder of the model to train")
    revision: str | None = Field(None, description="hub revision; None takes the newest and records which it was")
    seed: int = Field(1, ge=0, description="order of the rows and the adapter's first weights")
    lora: LoraSettings = LoraSettings()
    train: TrainSettings = TrainSettings()


class PairJobConfig(JobConfig):
    """Jobs on pairs: two stages, so that what they learn can be compared. The pairs must be the model's own."""

    data: DataConfig
    stage1: StageConfig = Field(StageConfig(), description="intervened pairs alone")
    stage2: StageConfig = Field(StageConfig(), description="intervened and benign pairs, mixed")

    @model_validator(mode="after")
    def _has_a_stage(self) -> "PairJobConfig":
        if not self.stage1.epochs and not self.stage2.epochs:
            raise ValueError("stage1.epochs and stage2.epochs are both 0: nothing to train")
        return self


class IpoConfig(PairJobConfig):
    """The job `steer train ipo`."""

    loss: LossConfig = LossConfig()


C = TypeVar("C", bound=BaseModel)


def load_config(path: Path, kind: type[C]) -> C:
    """Raises IpoConfigError that names the file and each wrong field."""
    try:
        return kind.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise IpoConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise IpoConfigError(f"{path} is no valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
        raise IpoConfigError(f"{path} does not fit:\n" + "\n".join(lines)) from error
