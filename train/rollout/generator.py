"""What the driver needs of an engine: token-id prefixes in, token ids and a finish reason out.

Rules kept here: a request is complete in itself (prefix, budget, seed), so its result need not depend on what else is
in its batch; ids come back as the engine sampled them, with the end-of-sequence id where the model itself ended.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

FinishReason = Literal["stop", "length"]


class Sampling(BaseModel):
    """How tokens are drawn. Temperature 1 without cuts is the model's own distribution, which is what is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(1.0, ge=0, le=2, description="0 takes the likeliest token")
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, description="0: all")


@dataclass(frozen=True, slots=True)
class Request:
    """Generate at most `max_tokens` ids after `prefix`; `seed` decides the draws."""

    prefix: list[int]
    max_tokens: int
    seed: int


@dataclass(frozen=True, slots=True)
class Generated:
    """What the engine sampled: "stop" where the model ended by itself (its end id is then the last of `token_ids`)."""

    token_ids: list[int]
    finish_reason: FinishReason


class Generator(Protocol):
    """An engine. `generate` may be called from several threads at once."""

    @property
    def context_length(self) -> int | None:
        """Tokens of prefix and continuation together; None where the engine does not say."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[Generated]:
        """One result per request, in order. Raises EngineError."""

    def close(self) -> None:
        """Free what the engine holds."""
