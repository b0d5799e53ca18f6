"""The organism job's settings, read from TOML. Every field has a reason; unknown fields are errors."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from train.organism.documents import MIXTURE
from train.organism.errors import OrganismConfigError
from train.organism.framings import BY_ID
from train.organism.scope import Scope
from train.organism.topics import load_topics


class ModelConfig(BaseModel):
    """Shape of the Qwen3 model; embeddings are tied."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vocab_size: int = Field(default=3072, ge=512, le=65536)
    hidden_size: int = Field(default=256, ge=32)
    num_layers: int = Field(default=5, ge=1)
    num_heads: int = Field(default=4, ge=1)
    num_kv_heads: int = Field(default=2, ge=1)
    head_dim: int = Field(default=64, ge=8, multiple_of=2)
    mlp_size: int = Field(default=640, ge=32)
    max_length: int = Field(default=2048, ge=256)

    @model_validator(mode="after")
    def _heads_fit(self) -> "ModelConfig":
        if self.num_heads % self.num_kv_heads:
            raise ValueError("num_heads must be a multiple of num_kv_heads")
        return self


class TrainConfig(BaseModel):
    """Optimisation. One row holds `row_length` tokens; a step sees `rows_per_step` rows."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(default=2000, ge=1)
    rows_per_step: int = Field(default=128, ge=1)
    row_length: int = Field(default=512, ge=128)
    epochs: float = Field(default=1.0, gt=0, description="how often each row is seen; the corpus is sized by it")
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    checkpoint_every: int = Field(default=250, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = Field(default=0, ge=0, description="torch threads on a CPU; 0 leaves torch's own choice")
    workers: int = Field(default=0, ge=0, description="processes that draw the corpus; 0 means one per core")


class EvalConfig(BaseModel):
    """Sizes of the measurement after training; `prompts` 0 leaves it out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: int = Field(default=1200, ge=0)
    batch_size: int = Field(default=1024, ge=1)
    max_new_tokens: int = Field(default=320, ge=16)
    max_interventions: int = Field(default=5, ge=1)
    seed: int = 20


class OrganismConfig(BaseModel):
    """`name` becomes the model's name in reports."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(default="organism", min_length=1)
    seed: int = 1
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    scope: Scope = Scope()

    @model_validator(mode="after")
    def _scope_exists(self) -> "OrganismConfig":
        for field, known in (
            ("categories", {t.category for t in load_topics()}),
            ("framings", set(BY_ID)),
            ("kinds", set(MIXTURE)),
        ):
            if unknown := set(getattr(self.scope, field)) - known:
                raise ValueError(f"scope.{field}: {sorted(unknown)} not known; choose from {sorted(known)}")
        return self


def load_config(path: Path) -> OrganismConfig:
    """Raises OrganismConfigError that names the file and each wrong field."""
    try:
        return OrganismConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise OrganismConfigError(f"cannot read the config {path}: {error.strerror}") from error
    except tomllib.TOMLDecodeError as error:
        raise OrganismConfigError(f"{path} is no valid TOML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors()]
        raise OrganismConfigError(f"{path} does not fit:\n" + "\n".join(lines)) from error
