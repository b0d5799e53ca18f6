"""What `steer train pairs --config TOML` may say. Unknown fields are errors."""

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from train.judges.load import JudgeConfig
from train.pairs.errors import PairsConfigError
from train.rollout.config import ThinkConfig, read_config


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


# The operator's own traffic, where the log has no tenants, and what is replayed.
OWN_TENANT = "default"


class CapsConfig(_Model):
    """How many pairs may come from one source: no tenant and no kind of prompt may dominate (or poison) a bake."""

    per_prompt: int = Field(6, ge=1)
    per_family: int = Field(200, ge=1)
    per_tenant: int = Field(1000, ge=1, description="of tenants other than `default`, which is the operator's own")
    tenant_share: float = Field(
        0.25, gt=0, le=1, description="of all pairs, for the same tenants; one that is alone in the union has it all"
    )
    opt_out: tuple[str, ...] = Field((), description="tenants whose traffic is not trained on")


class ShapeConfig(_Model):
    """Length of the sides. A side that is cut shorter ends at a sentence, and does not claim to have ended."""

    max_ratio: float = Field(1.5, ge=1, description="the longer side has at most so many times the shorter one's ids")
    max_tokens: int = Field(1024, ge=8, description="ids of a side")
    min_tokens: int = Field(8, ge=1, description="ids of a side after the divergence, its trigger not counted")
    max_prefix: int = Field(8192, ge=1, description="ids of prompt and kept reasoning")


class BenignConfig(_Model):
    """Pairs against over-refusal."""

    enabled: bool = True
    needless_triggers: bool = Field(
        False, description="a trigger where none belongs is rejected even if the model went on to help"
    )
    per_prompt: int = Field(2, ge=1)
    unreviewed_tenants: bool = Field(
        False, description="take benign pairs from halts of other tenants than `default` that nobody has reviewed"
    )


class FamiliesConfig(_Model):
    """Prompts without a family of their own are grouped by likeness."""

    similarity: float = Field(0.6, gt=0, le=1, description="shared part of word shingles from which prompts are kin")
    shingle: int = Field(3, ge=1, le=10, description="words in a shingle")


class PairsConfig(_Model):
    """One snapshot."""

    rollouts: tuple[Path, ...] = Field((), description="rollouts.jsonl files, of completed records among them")
    records: tuple[Path, ...] = Field((), description="JSONL of intervention records that need no completion")
    tokenizer: str = Field(description="folder or hub name: the tokenizer of the model that made the traces")
    template_options: dict[str, Any] = Field(default_factory=dict, description="options of the chat template")
    think: ThinkConfig = ThinkConfig()
    judge: JudgeConfig
    caps: CapsConfig = CapsConfig()
    shape: ShapeConfig = ShapeConfig()
    benign: BenignConfig = BenignConfig()
    families: FamiliesConfig = FamiliesConfig()
    validation_share: float = Field(0.1, ge=0, lt=1, description="share of prompt families kept for validation")
    counts_misses: bool = Field(True, description="also judge traces that no cue halted: what the detector missed")
    seed: int = 1

    @model_validator(mode="after")
    def _has_input(self) -> Self:
        if not self.rollouts and not self.records:
            raise ValueError("give rollouts, records or both")
        return self


def load_config(path: Path) -> PairsConfig:
    """Raises PairsConfigError that names the file and each wrong field."""
    return read_config(path, PairsConfig, PairsConfigError)
