"""The schema of a preference pair: what the trainer learns from one divergence.

A pair is (prompt + kept prefix | chosen, rejected): both sides start at the same token position, the divergence index,
and differ from their first token on. Token ids are what the engine was sent or sent itself; nothing is ever re-encoded
across the divergence. Who wrote each token is fixed here, when the pair is built, never in the loss: the first
`trigger_tokens` ids of a chosen side were spliced, all others are the model's own.

Pairs hold user text. A frozen snapshot of pairs is the only other place than the log where it is stored, and names the
records that it was made of, so that deletion can reach it.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PAIR_SCHEMA_VERSION = 1

PairKind = Literal[
    "safety",  # chosen: trigger and the safe continuation; rejected: the cue and what followed it
    "benign",  # chosen: helpful reasoning; rejected: an over-refusal, or a halt that a reviewer found to be false
]
Admission = Literal["review", "judge"]
TokenIds = Annotated[list[int], Field(min_length=1)]


class Side(BaseModel):
    """One side after the divergence. `token_ids` hold no end-of-sequence id unless the model itself ended there
    (`ended`); `text` is what they decode to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    token_ids: TokenIds
    ended: bool = False


class Pair(BaseModel):
    """One preference, complete enough to train on and to be traced to the requests behind it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = PAIR_SCHEMA_VERSION
    id: str = Field(description="SHA-256 of both sides' ids and their prefix, hex: equal pairs have equal ids")
    kind: PairKind = "safety"
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    prompt_token_ids: TokenIds
    kept_token_ids: list[int] = Field(description="reasoning before the divergence, earlier triggers included")
    kept_text: str = ""
    chosen: Side
    rejected: Side
    trigger_id: str | None = Field(None, description="None where nothing was spliced (benign pairs)")
    trigger_tokens: int = Field(0, ge=0, description="ids of the chosen side that were spliced, at its start")
    cue_tokens: int = Field(0, ge=0, description="ids of the rejected side that were the cue, at its start")
    attempt: int = Field(0, ge=0, description="interventions before this one in the same trace")
    family: str = Field(description="prompts of one family stay on one side of any split")
    category: str | None = None
    tenant: str = "default"
    model: str
    adapter: str | None = None
    record_ids: list[str] = Field(default_factory=list, description="intervention records behind the pair")
    admitted_by: Admission = "judge"

    @property
    def divergence_index(self) -> int:
        """Number of ids that both sides share."""
        return len(self.prompt_token_ids) + len(self.kept_token_ids)

    @model_validator(mode="after")
    def _sides_differ_at_once(self) -> Self:
        if self.chosen.token_ids[0] == self.rejected.token_ids[0]:
            raise ValueError(f"pair {self.id}: both sides start with token {self.chosen.token_ids[0]}; move the cut")
        if self.trigger_tokens > len(self.chosen.token_ids) or self.cue_tokens > len(self.rejected.token_ids):
            raise ValueError(f"pair {self.id}: more trigger or cue ids than its side has")
        return self
