"""What `steer train misses --config TOML` may say. Unknown fields are errors."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from train.judges.load import JudgeConfig
from train.misses.errors import MissesConfigError
from train.rollout.config import read_config


class MissesConfig(BaseModel):
    """One job."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    traces: tuple[Path, ...] = Field(min_length=1, description="JSONL of `steer review unjudged`")
    judge: JudgeConfig
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the report's intervals")


def load_config(path: Path) -> MissesConfig:
    """Raises MissesConfigError that names the file and each wrong field."""
    return read_config(path, MissesConfig, MissesConfigError)
