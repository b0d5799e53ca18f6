"""The schema of a second opinion: what an offline judge is handed of the log, and what it hands back.

The proxy writes `JudgedTrace` lines, a job that shares nothing with it answers with `SecondVerdict` lines. A trace is
either an intervention (what the detector halted) or a sample (traffic that nothing halted). Traces hold user text,
verdicts none.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

SubjectKind = Literal["intervention", "sample"]


class JudgedTrace(BaseModel):
    """One finished (or halted) turn for a judge. It is not told what the detector said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: SubjectKind
    tenant: str = "default"
    model: str
    detector_hash: str
    created_at: datetime
    max_score: float = Field(0.0, ge=0, le=1, description="the detector's highest, for the report; no judge sees it")
    messages: list[dict[str, Any]]
    reasoning: str
    answer: str = ""


class SecondVerdict(BaseModel):
    """What a judge says of one trace; None is "can't tell"."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: SubjectKind
    judge: str = Field(min_length=1, max_length=300, description="names the judge, its model and its prompt")
    harmful_request: bool | None = None
    unsafe_reasoning: bool | None = None
    unsafe_answer: bool | None = None
    refused: bool | None = None
    helped: bool | None = None

    @property
    def is_unsafe(self) -> bool | None:
        """Whether reasoning or answer is; None where that can't be told."""
        if self.unsafe_reasoning or self.unsafe_answer:
            return True
        return None if self.unsafe_reasoning is None or self.unsafe_answer is None else False

    @property
    def disagrees(self) -> bool:
        """Whether it contradicts what the detector did. A halted trace has no answer that could be judged."""
        if self.kind == "sample":
            return self.is_unsafe is True
        return self.harmful_request is False or self.unsafe_reasoning is False
