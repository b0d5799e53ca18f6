"""What has been said in one choice, and the records made from it.

The transcript is the single account of text and ids: prompt, what was kept of each leg, triggers, the current leg. A
record is cut out of it at a halt (`spliced`, `refused`, `observed`), its completion at the end of the leg that follows.
"""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from detector.context import Message
from proxy.cut import Cut, LegTokens
from steer.events import Channel, Halt, Observe, RefusalCause, Splice
from steer.policy import Mode
from steer.record import Completion, InterventionRecord, Outcome, TextSpan, Timings


@dataclass(frozen=True, slots=True)
class Origin:
    """What is the same in every record of a request's choice."""

    request_id: str
    choice: int
    tenant: str
    model: str
    mode: Mode
    policy_hash: str
    detector_hash: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    sampling: dict[str, Any]
    adapter: str | None = None
    category: str | None = None
    trigger_snapshot: str | None = None


@dataclass(slots=True)
class _Said:
    """Text in the order it was said, each part with its channel."""

    parts: list[tuple[Channel, str]] = field(default_factory=list)

    def add(self, channel: Channel, text: str) -> None:
        self.parts.append((channel, text))

    def of(self, channel: Channel) -> str:
        return "".join(text for spoken, text in self.parts if spoken == channel)

    def head(self, chars: int) -> "_Said":
        """The first `chars` characters."""
        kept = _Said()
        for channel, text in self.parts:
            if chars <= 0:
                break
            kept.add(channel, text[:chars])
            chars -= len(text)
        return kept

    @property
    def text(self) -> str:
        return "".join(text for _, text in self.parts)


class Transcript:
    """One choice. `clock` gives seconds on a monotonic clock; the arrival of the request is its zero."""

    def __init__(self, origin: Origin, context_messages: Sequence[Message], started: float) -> None:
        self.origin = origin
        self.context_messages = tuple(context_messages)
        self.prompt_ids: list[int] | None = None
        self.record: InterventionRecord | None = None
        self.pending_halt: Halt | None = None
        self.refusal_cause: RefusalCause | None = None
        self.verdict_ms: dict[int, float] = {}
        self.generated_tokens = 0  # received from the engine over all finished legs, discarded ones included
        self.discarded_tokens = 0
        self.trigger_tokens = 0
        self.last_channel: Channel | None = None
        self._started = started
        self._said = _Said()  # kept of finished legs, triggers included
        self._ids: list[int] = []  # the ids behind it
        self._leg = _Said()
        self._leg_ids: list[int] = []
        self._rejected = TextSpan()
        self._halted_ms = 0.0
        self._resumed_ms: float | None = None
        self._attempt = 0

    @property
    def request_id(self) -> str:
        """The request's id, for messages."""
        return self.origin.request_id

    @property
    def ids(self) -> list[int]:
        """Ids after the prompt that a resume starts from: kept and triggers, in order."""
        return self._ids

    @property
    def num_shown(self) -> int:
        """Ids after the prompt that the client was given, in the legs before the current one."""
        return len(self._ids)

    @property
    def reasoning(self) -> str:
        """Reasoning kept of earlier legs, triggers included."""
        return self._said.of("reasoning")

    @property
    def answer(self) -> str:
        """Answer kept of earlier legs."""
        return self._said.of("answer")

    @property
    def leg_parts(self) -> list[tuple[Channel, str]]:
        """What the current leg has said so far, in order."""
        return self._leg.parts

    @property
    def num_records(self) -> int:
        """Records made so far."""
        return self._attempt

    @property
    def in_reasoning(self) -> bool:
        """Whether the last text was reasoning."""
        return self.last_channel == "reasoning"

    def now_ms(self) -> float:
        """Milliseconds since the request came."""
        return (time.monotonic() - self._started) * 1e3

    def add(self, channel: Channel, text: str) -> None:
        """Text of the current leg, tool calls included, as fed to the engine."""
        if text:
            if self._resumed_ms is None and self.record is not None:
                self._resumed_ms = self.now_ms()
            self._leg.add(channel, text)
        self.last_channel = channel

    # -- a halt -------------------------------------------------------------------------------------------------------

    def halted(self, halt: Halt) -> None:
        """The engine has ordered a halt."""
        self.pending_halt = halt
        self._halted_ms = self.now_ms()

    def cut(self, cut: Cut, tokens: LegTokens) -> None:
        """The leg is over: `cut` says what is kept of it."""
        self._rejected = TextSpan(text=tokens.text[cut.kept_chars :], token_ids=_ids(tokens, cut.cut_ids))
        self._leg, self._leg_ids = self._leg.head(cut.kept_chars), cut.kept_ids
        self.generated_tokens += tokens.num_tokens
        self.discarded_tokens += len(cut.cut_ids)

    def spliced(self, splice: Splice, trigger_ids: list[int] | None) -> InterventionRecord:
        """The record of the halt that was just cut; the trigger joins what is kept, a new leg begins."""
        span = TextSpan(text=splice.text, token_ids=trigger_ids)
        record = self._make(trigger=span, trigger_id=splice.trigger_id, probability=splice.probability)
        self._keep_leg()
        self._said.add(splice.channel, splice.text)
        self.last_channel = splice.channel
        self._ids += trigger_ids or []
        self.trigger_tokens += len(trigger_ids or [])
        return record

    def refused(self, cause: RefusalCause) -> InterventionRecord:
        """The record of a halt after which nothing was spliced."""
        record = self._make(trigger=TextSpan(), trigger_id=None, refusal_cause=cause)
        self._keep_leg()
        return record

    def observed(self, observe: Observe, tokens: LegTokens, cut: Cut | None) -> InterventionRecord:
        """Monitor mode: the record of the halt that would have been, at `cut`, else between two events."""
        self.pending_halt = Halt(observe.segment_id, observe.channel, observe.start, observe.text, observe.score)
        self._halted_ms = self.now_ms()
        return self._uncut(tokens.cut_between(observe.start) if cut is None else cut, tokens)

    def abandoned(self, tokens: LegTokens | None) -> InterventionRecord:
        """The record of a halt that the end of the stream overtook; `tokens` of the leg where it was not cut yet."""
        halt = self.pending_halt
        assert halt is not None, "what is abandoned is a halt"
        if tokens is None:
            return self._make(trigger=TextSpan(), trigger_id=None)
        return self._uncut(tokens.cut_between(halt.at), tokens)

    def _uncut(self, cut: Cut, tokens: LegTokens) -> InterventionRecord:
        """A record of a leg that goes on, or that nobody will resume."""
        self._rejected = TextSpan(text=tokens.text[cut.kept_chars :], token_ids=_ids(tokens, cut.cut_ids))
        whole, self._leg = self._leg, self._leg.head(cut.kept_chars)
        whole_ids, self._leg_ids = self._leg_ids, cut.kept_ids
        record = self._make(trigger=TextSpan(), trigger_id=None)
        self._leg, self._leg_ids = whole, whole_ids
        return record

    def _keep_leg(self) -> None:
        self._said.parts += self._leg.parts
        self._ids = self._ids + self._leg_ids
        self._leg, self._leg_ids = _Said(), []
        self._resumed_ms = None

    def _make(
        self,
        *,
        trigger: TextSpan,
        trigger_id: str | None,
        probability: float | None = None,
        refusal_cause: RefusalCause | None = None,
    ) -> InterventionRecord:
        halt, self.pending_halt = self.pending_halt, None
        assert halt is not None, "a record is made of a halt"
        origin = self.origin
        has_ids = self.prompt_ids is not None
        self.record = InterventionRecord(
            id=uuid.uuid4().hex,
            request_id=origin.request_id,
            choice=origin.choice,
            attempt=self._attempt,
            tenant=origin.tenant,
            created_at=datetime.now(UTC),
            mode=origin.mode,
            model=origin.model,
            adapter=origin.adapter,
            policy_hash=origin.policy_hash,
            detector_hash=origin.detector_hash,
            trigger_id=trigger_id,
            trigger=trigger,
            trigger_snapshot=None if trigger_id is None else origin.trigger_snapshot,
            trigger_probability=probability,
            channel=halt.channel,
            score=halt.score,
            category=origin.category,
            messages=origin.messages,
            tools=origin.tools,
            prompt_token_ids=self.prompt_ids,
            kept=TextSpan(
                text=self._said.text + self._leg.text,
                token_ids=self._ids + self._leg_ids if has_ids else None,
            ),
            rejected=self._rejected,
            refusal_cause=refusal_cause,
            sampling=origin.sampling,
            timings=Timings(halted_ms=self._halted_ms, verdict_ms=self.verdict_ms.get(halt.segment_id)),
        )
        self._attempt += 1
        return self.record

    # -- its end ------------------------------------------------------------------------------------------------------

    def completion(self, outcome: Outcome, finish_reason: str | None, tokens: LegTokens | None = None) -> Completion:
        """What completes the last record; `tokens` of the leg where it was not cut."""
        assert self.record is not None, "a completion belongs to a record"
        ids = self._leg_ids if tokens is None else tokens.token_ids
        timings = self.record.timings.model_copy(update={"resumed_ms": self._resumed_ms, "ended_ms": self.now_ms()})
        return Completion(
            outcome=outcome,
            continuation=TextSpan(
                text=self._leg.of("reasoning"), token_ids=ids if self.prompt_ids is not None else None
            ),
            answer=self._leg.of("answer"),
            finish_reason=finish_reason,
            discarded_tokens=self.discarded_tokens,
            timings=timings,
        )

    def extension(self, *, rejected: bool) -> dict[str, Any]:
        """The `steer` field of the chunk that carries the trigger, for clients that asked."""
        record = self.record
        assert record is not None, "an extension tells of a record"
        told: dict[str, Any] = {
            "event": "intervention",
            "id": record.id,
            "attempt": record.attempt,
            "channel": record.channel,
            "score": round(record.score, 4),
            "trigger_id": record.trigger_id,
        }
        if rejected:
            told["rejected"] = record.rejected.text
        return told


def _ids(tokens: LegTokens, ids: list[int]) -> list[int] | None:
    return ids if tokens.num_tokens else None
