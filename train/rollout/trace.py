"""The schema of a rollout: one prompt, what the model wrote unsteered, and what it wrote after each trigger.

One JSON line holds one prompt. A *leg* is one generation, whole, as the engine sampled it: where a cue was found, `cut`
says what survives, and the ids beyond it are the counterfactual, what the model writes when nobody intervenes. A
*branch* goes on from the first leg's cut with a trigger of its own, and holds one step for every trigger spliced.
`spans` is the branch's transcript as a client would be shown it, each span with who wrote it.
Rollouts hold user text where prompts do.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from steer.events import Channel, RefusalCause
from steer.record import ReviewState, TextSpan
from train.rollout.generator import FinishReason

ROLLOUT_SCHEMA_VERSION = 1

Writer = Literal["model", "trigger", "policy"]
BranchOutcome = Literal[
    "completed",  # the last leg ran to its own end, or to the token budget
    "refused",  # the budget of interventions was spent, or a segment could not be judged
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Span(_Frozen):
    """Text of one channel by one writer. Marker ids stand with the text before them; a refusal has no ids."""

    writer: Writer
    channel: Channel
    text: str
    token_ids: list[int]


class Scored(_Frozen):
    """A segment by its leg offsets. `score` None: it could not be judged."""

    channel: Channel
    start: int
    end: int
    score: float | None


class Cut(_Frozen):
    """Where a leg was cut: `at` is where the cue begins, `kept_chars` <= `at` what ids could keep."""

    at: int
    kept_chars: int
    kept_tokens: int
    cue_tokens: int = Field(description="ids from the cut that hold the cue")
    text: str = Field(description="the cue")
    score: float
    channel: Channel
    is_forced: bool = Field(False, description="no cue: cut to see what a trigger does where none belongs")


class Leg(_Frozen):
    """One generation. Its end id, where the model ended by itself, is the last of `token_ids`."""

    token_ids: list[int]
    reasoning: str
    answer: str
    finish_reason: FinishReason | None = Field(description="None: not generated to its end (a recorded halt)")
    seed: int | None = None
    segments: list[Scored] = Field(default_factory=list, description="those that were judged, in order")
    cut: Cut | None = None
    num_given: int = Field(0, ge=0, description="ids at the start that were recorded, not generated here")


class Step(_Frozen):
    """A trigger and what followed it; `leg` None where the token budget was spent."""

    trigger_id: str
    trigger: Span
    leg: Leg | None


class Branch(_Frozen):
    """One way on from the first leg's cut."""

    steps: list[Step]
    outcome: BranchOutcome
    refusal_cause: RefusalCause | None = None
    finish_reason: str
    spans: list[Span]


class Sample(_Frozen):
    """One unsteered generation, and the branches from its cut; without a cue there are none."""

    base: Leg
    branches: list[Branch] = Field(default_factory=list)

    def legs(self) -> Iterator[Leg]:
        """Every leg, the first one first."""
        yield self.base
        yield from (step.leg for branch in self.branches for step in branch.steps if step.leg is not None)


class Rollout(_Frozen):
    """One prompt. `given` is what stood before the first leg: empty, or the kept prefix of a completed record."""

    schema_version: int = ROLLOUT_SCHEMA_VERSION
    id: str
    label: str | None = None
    category: str | None = None
    family: str | None = None
    tenant: str = "default"
    record_id: str | None = Field(None, description="the intervention record that was completed")
    review_state: ReviewState = "unreviewed"
    attempt: int = Field(0, ge=0, description="interventions before the first leg")
    model: str
    adapter: str | None = None
    detector: str
    policy_hash: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    prompt_token_ids: list[int]
    given: TextSpan = TextSpan()
    samples: list[Sample]

    def legs(self) -> Iterator[Leg]:
        """Every leg of every sample."""
        for sample in self.samples:
            yield from sample.legs()

    @property
    def num_generations(self) -> int:
        """Generations that this rollout cost."""
        return sum(len(leg.token_ids) > leg.num_given for leg in self.legs())

    @property
    def num_tokens(self) -> int:
        """Tokens that were generated for it."""
        return sum(len(leg.token_ids) - leg.num_given for leg in self.legs())
