"""Drives one `steer.Engine` over whole legs: the offline counterpart of the proxy's live session.

Rules kept here, equal to the live driver's (shared scripted cases hold the two together): a leg is cut between known
ids; the trigger's ids are encoded alone and appended; the next leg continues from exact ids; the token budget shrinks
by what is kept, triggers included; the seed moves on with every leg. Unlike there, a leg has been generated to its end
before its first segment is judged, so what lies beyond a cut is known: the counterfactual.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import assert_never

from steer.engine import Engine
from steer.errors import DriverError
from steer.events import (
    Action,
    Channel,
    Classify,
    Finish,
    Halt,
    Halted,
    Observe,
    RefusalCause,
    Refuse,
    Release,
    Resume,
    Splice,
    StreamEnd,
    TextDelta,
    Verdict,
)
from train.rollout.generator import Generated, Request
from train.rollout.text import LegText, leg_text
from train.rollout.trace import Cut, Leg, Scored, Span, Step
from train.rollout.vocabulary import Vocabulary

# As the proxy's: a large odd step keeps the seeds of legs and of neighbouring samples apart.
SEED_STEP = 1_000_003
# As the proxy's, for engines that do not tell their context length.
DEFAULT_MAX_TOKENS = 8192


def leg_seed(seed: int, attempt: int) -> int:
    """The seed of one leg."""
    return (seed + attempt * SEED_STEP) % 2**63


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of one trace. `max_tokens`: the whole turn, triggers included; None leaves the context's length."""

    max_tokens: int | None
    context_length: int | None

    def remaining(self, num_prefix: int, num_kept: int) -> int:
        """What the next leg may have, at least 0."""
        room = [] if self.context_length is None else [self.context_length - num_prefix]
        if self.max_tokens is not None:
            room.append(self.max_tokens - num_kept)
        return max(0, min(room, default=DEFAULT_MAX_TOKENS))


@dataclass(slots=True)
class _Current:
    """The leg at hand."""

    generated: Generated
    seed: int
    text: LegText
    end_id: list[int]
    scored: list[Scored] = field(default_factory=list)
    cut: Cut | None = None


class Stream:
    """One trace. `ids` are what stands after the prompt: kept and spliced, in order."""

    def __init__(
        self, engine: Engine, vocabulary: Vocabulary, prompt_ids: Sequence[int], budget: Budget, seed: int
    ) -> None:
        self.ids: list[int] = []
        self.spans: list[Span] = []
        self.legs: list[Leg | None] = []  # None: there was no budget for one
        self.steps: list[tuple[str, Span]] = []  # trigger id and span
        self.refusal_cause: RefusalCause | None = None
        self.finish_reason: str | None = None
        self._engine = engine
        self._vocabulary = vocabulary
        self._prompt = list(prompt_ids)
        self._budget = budget
        self._seed = seed
        self._resumed_in: Channel | None = None
        self._attempt = 0
        self._unjudged: deque[Classify] = deque()
        self._current: _Current | None = None

    # -- what the rounds ask ------------------------------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether the trace is over."""
        return self._engine.is_closed

    def request(self) -> Request | None:
        """What the next leg is to be; None where the stream is over, or ends here for want of tokens."""
        if self.is_closed:
            return None
        room = self._budget.remaining(len(self._prompt) + len(self.ids), len(self.ids))
        if room == 0:
            self._end_without_leg()
            return None
        return Request(self._prompt + self.ids, room, leg_seed(self._seed, self._attempt))

    def begin(self, generated: Generated) -> None:
        """The leg has been generated: its text goes to the engine, segments wait to be judged."""
        ids, end_id = self._vocabulary.split_end(generated.token_ids, is_ended=generated.finish_reason == "stop")
        prefix = self._prompt + self.ids
        opening = self._vocabulary.opening(prefix, self._resumed_in)
        text = leg_text(self._vocabulary.texts(prefix, ids), opening, self._vocabulary.markers)
        self._current = _Current(generated, leg_seed(self._seed, self._attempt), text, end_id)
        for channel, piece in text.pieces():
            self._act(self._engine.feed(TextDelta(channel, piece)))
        self._act(self._engine.feed(StreamEnd(generated.finish_reason)))

    def unjudged(self, count: int) -> list[Classify]:
        """The next segments to judge, at most `count`; none once a cue is met."""
        return [self._unjudged[place] for place in range(min(count, len(self._unjudged)))]

    def judge(self, score: float | None) -> None:
        """The verdict on the first unjudged segment; without effect once a cue is met."""
        if not self._unjudged or self._current is None:
            return
        segment = self._unjudged.popleft()
        self._current.scored.append(Scored(channel=segment.channel, start=segment.start, end=segment.end, score=score))
        self._act(self._engine.feed(Verdict(segment.segment_id, score)))

    def replay(self, generated: Generated, scores: Sequence[float | None]) -> None:
        """A leg whose verdicts are known."""
        self.begin(generated)
        for score in scores:
            self.judge(score)

    # -- orders -------------------------------------------------------------------------------------------------------

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Release():
                    pass  # nobody watches
                case Classify():
                    self._unjudged.append(action)
                case Halt():
                    self._halt(action)
                case Splice():
                    self._splice(action)
                case Resume(channel=channel):
                    self._resumed_in = channel
                case Refuse():
                    self._refuse(action)
                case Finish(reason):
                    self._finish(reason)
                case Observe():
                    raise DriverError("rollouts run in hold mode: there is nobody whom observing would spare")
                case _:
                    assert_never(action)

    def _halt(self, halt: Halt) -> None:
        current = self._leg_at_hand()
        self._unjudged.clear()
        cut = current.text.cut(halt.at)
        current.cut = Cut(
            at=halt.at,
            kept_chars=cut.kept_chars,
            kept_tokens=cut.kept_ids,
            cue_tokens=current.text.ids_covering(halt.at + len(halt.text)) - cut.kept_ids,
            text=halt.text,
            score=halt.score,
            channel=halt.channel,
        )
        self._keep(cut.kept_chars, cut.kept_ids)
        self._close_leg()
        self._act(self._engine.feed(Halted(cut.kept_chars)))

    def _splice(self, splice: Splice) -> None:
        ids = self._vocabulary.encode(splice.text)
        span = Span(writer="trigger", channel=splice.channel, text=splice.text, token_ids=ids)
        self.spans.append(span)
        self.steps.append((splice.trigger_id, span))
        self.ids += ids
        self._attempt += 1

    def _refuse(self, refuse: Refuse) -> None:
        self._unjudged.clear()
        if self._current is not None:  # refused for want of a verdict: the leg was not cut before
            cut = self._current.text.cut(refuse.at)
            self._keep(cut.kept_chars, cut.kept_ids)
            self._close_leg()
        self.refusal_cause = refuse.cause
        text = self._engine.policy.refusal
        self.spans.append(Span(writer="policy", channel="answer", text=text, token_ids=[]))

    def _finish(self, reason: str) -> None:
        self.finish_reason = reason
        if self._current is not None:
            text = self._current.text
            self._keep(sum(len(piece) for _, piece in text.pieces()), len(text.ends))
            self.ids += self._current.end_id
            self._close_leg()

    # -- a leg --------------------------------------------------------------------------------------------------------

    def _leg_at_hand(self) -> _Current:
        assert self._current is not None, "the engine speaks of a leg that has begun"
        return self._current

    def _keep(self, chars: int, num_ids: int) -> None:
        """The first `chars` characters of the leg, and the ids behind them, join the transcript."""
        current = self._leg_at_hand()
        start, taken, ids = 0, 0, current.generated.token_ids
        for place, (channel, piece) in enumerate(current.text.pieces()):
            kept = piece[: max(0, chars - start)]
            start += len(piece)
            # Ids of a marker go with the text before it: the reasoning's end where the leg lives on into the answer.
            is_last = place == len(current.text.parts) - 1
            until = num_ids if is_last else min(num_ids, current.text.cut(start).kept_ids)
            if kept or until > taken:
                self.spans.append(Span(writer="model", channel=channel, text=kept, token_ids=ids[taken:until]))
            taken = max(taken, until)
        self.ids += ids[:num_ids]

    def _close_leg(self) -> None:
        current, self._current = self._leg_at_hand(), None
        self.legs.append(
            Leg(
                token_ids=list(current.generated.token_ids),
                reasoning=current.text.of("reasoning"),
                answer=current.text.of("answer"),
                finish_reason=current.generated.finish_reason,
                seed=current.seed,
                segments=current.scored,
                cut=current.cut,
            )
        )

    def _end_without_leg(self) -> None:
        self.legs.append(None)
        self._act(self._engine.feed(StreamEnd("length")))

    def taken_steps(self) -> list[Step]:
        """Every trigger with the leg that followed it."""
        return [
            Step(trigger_id=id, trigger=span, leg=leg)
            for (id, span), leg in zip(self.steps, self.legs[1:], strict=True)
        ]
