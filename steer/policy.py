"""What an operator decides about interventions. One frozen value, hashed into every record."""

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from steer.segmenter import DEFAULT_MAX_SEGMENT_CHARS

Mode = Literal["hold", "tap", "monitor"]
Scope = Literal["reasoning", "all"]
OnFailure = Literal["fail_closed", "fail_open"]

DEFAULT_REFUSAL = (
    "I can't help with this request as it stands. "
    "If you meant something safe by it, tell me what you are trying to achieve and I will gladly help with that."
)


class Policy(BaseModel):
    """The rules of one stream."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Mode = Field("hold", description="hold: show a segment after its verdict; tap: show at once; monitor: record")
    scope: Scope = Field("reasoning", description="what is watched; `all` adds the answer")
    threshold: float = Field(0.5, ge=0.0, le=1.0, description="a score at or above it is a cue")
    max_interventions: int = Field(
        # The method's authors see remaining harm fall to 15 % after five interventions and flatten from there.
        5,
        ge=0,
        le=32,
        description="interventions per request, then a refusal",
    )
    on_failure: OnFailure = Field("fail_closed", description="when the detector or the log fails: refuse, or pass")
    max_segment_chars: int = Field(DEFAULT_MAX_SEGMENT_CHARS, ge=8, le=4096, description="longest segment, characters")
    refusal: str = Field(DEFAULT_REFUSAL, min_length=1, max_length=2000, description="the answer of a refused request")

    def digest(self) -> str:
        """Stable identity of the policy: first 16 hex digits of the SHA-256 of its JSON."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
