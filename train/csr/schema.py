"""What the job writes, one JSON line each: a trace with its CSR curve, and a trial of a trigger.

Traces hold user text where prompts do. `tokens` are always offsets into the trace's own `token_ids`.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from train.csr.config import ModelKey
from train.csr.turning import Point
from train.judges.base import JudgeVerdict
from train.rollout.generator import FinishReason


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sentence(_Frozen):
    """reasoning[start:end], between two positions."""

    start: int
    end: int
    start_tokens: int
    end_tokens: int


class Measured(_Frozen):
    """Continuations of one position: `safe` of the `judged`; `unfinished` reached the token budget."""

    tokens: int
    safe: int
    judged: int
    unfinished: int

    @property
    def csr(self) -> float | None:
        """None where no judge could tell."""
        return self.safe / self.judged if self.judged else None


class Cost(_Frozen):
    """What the engine generated."""

    generations: int = 0
    tokens: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(generations=self.generations + other.generations, tokens=self.tokens + other.tokens)


class Curve(_Frozen):
    """One trace of one model. `detector_cue`, `judge_cue`: the first sentence found to be a cue, None where none is."""

    id: str
    model: ModelKey
    set_name: str
    label: str | None
    category: str | None
    family: str | None
    prompt_id: str
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    token_ids: list[int]
    finish_reason: FinishReason | None = Field(description="None: the prompt fills the context")
    reasoning: str
    answer: str
    sentences: list[Sentence]
    positions: int = Field(description="positions that could be measured")
    windows: int = Field(description="positions measured besides, to see a turn's window to its end")
    measured: list[Measured]
    detector_cue: int | None
    judge_cue: int | None
    verdict: JudgeVerdict = Field(description="on the whole turn")
    cost: Cost

    @property
    def points(self) -> list[Point]:
        """For the pure functions."""
        return [Point(one.tokens, one.safe, one.judged) for one in self.measured]

    def csr_at(self, tokens: int) -> float | None:
        """Of a measured position."""
        return next((one.csr for one in self.measured if one.tokens == tokens), None)

    def text_of(self, sentence: Sentence) -> str:
        """The sentence itself."""
        return self.reasoning[sentence.start : sentence.end]

    def sentence_at(self, tokens: int) -> int:
        """The sentence that holds the id before a position: the one that has just been said."""
        return next(i for i, s in enumerate(self.sentences) if tokens <= s.end_tokens)


Stage = Literal["candidates", "comparison"]
# none: the model goes on from the cut by itself
Arm = Literal["mined", "fixed", "generated", "none"]


class Trial(_Frozen):
    """A trigger spliced at one site, and what the judge found of trigger and continuation."""

    id: str
    stage: Stage
    arm: Arm
    trigger_id: str | None = Field(description="None for arm none")
    trigger: str | None = Field(description="its text; None for arm none, and where the model gave no usable sentence")
    site: str = Field(description="the trace that was cut")
    label: str | None
    category: str | None
    safe: bool | None = Field(description="None: the judge can't tell, or there was no usable trigger")
    helped: bool | None
    unfinished: bool
    cost: Cost
