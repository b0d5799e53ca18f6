"""One choice that nothing halted, as it is sampled: whole, with the scores of its segments, and where ids may be cut.

A sample that reviewers confirm as a miss becomes an intervention record: the halt that should have been. From there it
goes the way of every record, to `steer train label` and through `steer train rollout` to pairs.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from steer.events import Channel
from steer.policy import Mode
from steer.record import InterventionRecord, TextSpan, Timings
from steer.review import JudgedTrace


class ScoredSegment(NamedTuple):
    """A segment by offsets into the sample's text, which is one leg; `score` None: it could not be judged."""

    channel: Channel
    start: int
    end: int
    score: float | None


class SampleText(BaseModel):
    """What of a sample is text, or can be turned into text again. Reasoning and answer in order of arrival."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None = None
    sampling: dict[str, Any] = Field(default_factory=dict)
    parts: list[tuple[Channel, str]]
    prompt_token_ids: list[int] | None = None
    events: list[tuple[int, list[int]]] = Field(description="characters and ids of each upstream event")
    segments: list[ScoredSegment]

    def redacted(self, clean: Callable[[Any], Any]) -> "SampleText":
        """With every string cleaned. Where that changed what was said, ids and offsets no longer fit and go."""
        parts = [(channel, str(clean(text))) for channel, text in self.parts]
        messages, tools = clean(self.messages), clean(self.tools)
        made = self.model_copy(update={"parts": parts, "messages": messages, "tools": tools})
        if (messages, tools) != (self.messages, self.tools):
            made = made.model_copy(update={"prompt_token_ids": None, "events": []})
        if parts != self.parts:
            made = made.model_copy(update={"prompt_token_ids": None, "events": [], "segments": []})
        return made

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(text for _, text in self.parts)

    def of(self, channel: Channel) -> str:
        """One channel's."""
        return "".join(text for spoken, text in self.parts if spoken == channel)


class Sample(BaseModel):
    """A row of `samples` and its text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    request_id: str
    choice: int
    tenant: str
    created_at: datetime
    mode: Mode
    model: str
    adapter: str | None = None
    policy_hash: str
    detector_hash: str
    finish_reason: str
    state: str = "unjudged"
    max_score: float = Field(0.0, ge=0, le=1, description="the detector's highest; 0 where nothing was judged")
    text: SampleText

    @property
    def likeliest(self) -> int | None:
        """The segment that the detector took for a cue the most; None where there is none."""
        scores = [segment.score or 0.0 for segment in self.text.segments]
        return scores.index(max(scores)) if scores else None

    def trace(self) -> JudgedTrace:
        """As a judge is shown it."""
        return JudgedTrace(
            id=self.id,
            kind="sample",
            tenant=self.tenant,
            model=self.model,
            detector_hash=self.detector_hash,
            created_at=self.created_at,
            max_score=self.max_score,
            messages=self.text.messages,
            reasoning=self.text.of("reasoning"),
            answer=self.text.of("answer"),
        )

    def record(self, segment: int | None) -> InterventionRecord:
        """The halt that should have been, at `segment` (None: at the likeliest one)."""
        place = self.likeliest if segment is None else segment
        cue = self.text.segments[place] if place is not None else ScoredSegment("reasoning", 0, 0, None)
        chars, kept, rejected = self._cut(cue.start)
        text = self.text.text
        return InterventionRecord(
            id=self.id,
            request_id=self.request_id,
            choice=self.choice,
            attempt=0,
            tenant=self.tenant,
            created_at=self.created_at,
            mode=self.mode,
            model=self.model,
            adapter=self.adapter,
            policy_hash=self.policy_hash,
            detector_hash=self.detector_hash,
            trigger_id=None,
            channel=cue.channel,
            score=cue.score or 0.0,
            messages=self.text.messages,
            tools=self.text.tools,
            prompt_token_ids=self.text.prompt_token_ids if kept is not None else None,
            kept=TextSpan(text=text[:chars], token_ids=kept),
            rejected=TextSpan(text=text[chars:], token_ids=rejected),
            sampling=self.text.sampling,
            timings=Timings(halted_ms=0.0),
            outcome="observed",
            review_state="confirmed",
        )

    def _cut(self, at: int) -> tuple[int, list[int] | None, list[int] | None]:
        """(characters kept, their ids, the others). Ids are None where no event ends right before the cue: a prefix
        that lacks a sentence would teach another place."""
        text = self.text.text
        near = [cut for cut in self._boundaries() if cut[0] <= at and not text[cut[0] : at].strip()]
        if not near or self.text.prompt_token_ids is None:
            return at, None, None
        chars, num_ids = near[-1]
        every = [id for _, ids in self.text.events for id in ids]
        return chars, every[:num_ids], every[num_ids:]

    def _boundaries(self) -> Iterator[tuple[int, int]]:
        """(characters, ids) at the end of each event, and at the start."""
        chars = num_ids = 0
        yield 0, 0
        for size, ids in self.text.events:
            chars, num_ids = chars + size, num_ids + len(ids)
            yield chars, num_ids
