"""The schema of an intervention record: what happened at one halt, complete enough to become a preference pair.

A record is inserted at the halt with everything known then (`InterventionRecord`, outcome "open") and completed once
with what only the end of the leg can tell (`Completion`). Records hold user text: only the log stores them, and nothing
else may print them.

The pair is (prompt + kept prefix | chosen = trigger + continuation, rejected = rejected segment + ..., divergence index
= number of prompt and kept ids). Token ids are what the engine was sent or sent itself, never re-encoded text; None
means that the upstream gave none.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from steer.events import Channel
from steer.policy import Mode

SCHEMA_VERSION = 1

Outcome = Literal[
    "open",  # halted, the leg that follows has not ended
    "completed",  # the resumed leg ran to its own end
    "halted_again",  # the resumed leg held another cue, which has a record of its own
    "refused",  # no resume: the budget was spent, or the upstream can't resume
    "client_left",  # the client went away before the resumed leg ended
    "upstream_failed",  # the engine broke off the resumed leg
    "observed",  # monitor mode: nothing was done
    "interrupted",  # the proxy died; set when the log is next opened
]
ReviewState = Literal["unreviewed", "confirmed", "false_halt"]


class TextSpan(BaseModel):
    """A piece of the transcript as text and, where the upstream gave them, as token ids."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    token_ids: list[int] | None = None


class Timings(BaseModel):
    """Milliseconds on the proxy's monotonic clock, from the request's arrival unless said otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    halted_ms: float = Field(description="the verdict that halted the stream")
    verdict_ms: float | None = Field(None, description="duration: segment complete to its verdict")
    resumed_ms: float | None = Field(None, description="first token of the resumed leg")
    ended_ms: float | None = Field(None, description="the record's completion")


class Completion(BaseModel):
    """What completes a record. `continuation` is the resumed leg as far as it is kept, without the trigger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    outcome: Outcome
    continuation: TextSpan = TextSpan()
    answer: str = ""
    finish_reason: str | None = None
    discarded_tokens: int = Field(0, ge=0, description="tokens generated beyond the cut and thrown away")
    timings: Timings


class InterventionRecord(BaseModel):
    """One halt of one stream (in monitor mode: the halt that would have been)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    id: str
    request_id: str
    choice: int = Field(0, ge=0, description="index of the choice, for n > 1")
    attempt: int = Field(ge=0, description="0 for the first halt of the request's choice, then 1, 2, …")
    tenant: str = "default"
    created_at: datetime
    mode: Mode
    model: str
    adapter: str | None = None
    policy_hash: str
    detector_hash: str
    trigger_id: str | None = Field(description="None where nothing was spliced: refusal or monitor mode")
    trigger: TextSpan = TextSpan()
    trigger_snapshot: str | None = Field(None, description="selection table it was drawn from; None: the fixed pool")
    trigger_probability: float | None = Field(
        None, gt=0, le=1, description="with which it was drawn; None: nothing was, or nobody knows"
    )
    channel: Channel
    score: float = Field(ge=0, le=1)
    category: str | None = Field(None, description="harm category of the request; None: nobody looked")
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    prompt_token_ids: list[int] | None = None
    kept: TextSpan = Field(description="reasoning (and answer) shown before the cut, earlier triggers included")
    rejected: TextSpan = Field(description="the cue and what the engine had sent after it")
    refusal_cause: str | None = None
    sampling: dict[str, Any] = Field(default_factory=dict, description="temperature, top_p, seed … as requested")
    timings: Timings
    outcome: Outcome = "open"
    completion: Completion | None = None
    review_state: ReviewState = "unreviewed"

    def completed(self, completion: Completion) -> "InterventionRecord":
        """This record in its final form."""
        return self.model_copy(update={"outcome": completion.outcome, "completion": completion})
