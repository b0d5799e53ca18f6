"""The state machine of one stream: events in, orders out; no I/O, clock, thread or model.

    RUNNING --cue--> HALTING --Halted--> RUNNING (spliced, a new leg)        budget left and the upstream can resume
                                     \\-> CLOSED  (refused)                   otherwise
    RUNNING --StreamEnd--> DRAINING --last verdict--> CLOSED                 (cues found while draining halt as above)

Rules kept here, and only here:
1. Verdicts count in segment order, whatever order they arrive in: the first cue of the text is the one that halts.
2. Hold mode releases text up to the end of the last segment judged safe with all before it; unwatched text as soon as
   everything before it is. Tap and monitor release at once.
3. What hold mode releases depends on text, scores, policy and seed alone: never on chunking or latency.
4. At most `max_interventions` splices, then a refusal. Every path ends in exactly one Finish.
5. The engine keeps no more text than the undecided segments and a bounded tail of context.
The engine does not know tokens, frames or requests: `Halted` tells it where the driver could really cut.
"""

import math
import random
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from steer.errors import DriverError
from steer.events import (
    Action,
    CannotResume,
    Channel,
    Classify,
    Event,
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
from steer.policy import Policy
from steer.segmenter import Segmenter
from steer.shown import ShownText
from steer.triggers import TriggerPool


class _State(Enum):
    RUNNING = "running"
    DRAINING = "draining"
    HALTING = "halting"
    RESUMING = "resuming"  # running, but no text of the new leg has come yet
    CLOSED = "closed"


@dataclass(slots=True)
class _Pending:
    """A segment between its Classify and the moment its verdict counts."""

    segment_id: int
    channel: Channel
    start: int
    end: int
    text: str
    score: float | None = None
    is_judged: bool = False


class Engine:
    """One choice of one request, from its first token to its terminal frame.

    `seed` decides the triggers; `can_resume=False` turns every halt into a refusal; `watch_answer=True` watches the
    answer whatever the policy's scope (for streams whose reasoning is hidden from the client).
    """

    def __init__(
        self,
        policy: Policy,
        triggers: TriggerPool,
        seed: int,
        *,
        can_resume: bool = True,
        watch_answer: bool = False,
    ) -> None:
        self.policy = policy
        self.interventions = 0
        self.failed_verdicts = 0
        self._triggers = triggers
        self._rng = random.Random(seed)
        self._can_resume = can_resume
        self._watch_answer = watch_answer or policy.scope == "all"
        self._state = _State.RUNNING
        self._next_id = 0
        self._used: set[str] = set()
        self._observed = False
        self._shown = ShownText()
        self._halt: Halt | None = None
        self._released = 0
        self._start_leg("reasoning")

    def feed(self, event: Event) -> list[Action]:
        """Orders that follow from `event`, to be carried out in this order.

        Raises DriverError when the event is impossible now, which is a bug of the driver.
        """
        match event:
            case TextDelta():
                return self._on_text(event)
            case Verdict():
                return self._on_verdict(event)
            case StreamEnd():
                return self._on_end(event)
            case Halted():
                return self._on_halted(event)
            case CannotResume():
                self._expect(event, _State.RESUMING)
                return self._refuse(0, "cannot_resume")
            case _:
                assert_never(event)

    def abort(self, cause: RefusalCause) -> list[Action]:
        """The driver can't go on safely (the log failed, say): refuse after what has been released.

        Raises DriverError once the stream is closed.
        """
        if self._state is _State.CLOSED:
            raise self._impossible("abort after the end of the stream")
        return self._refuse(self._released, cause)

    @property
    def is_closed(self) -> bool:
        """Whether `Finish` has been given, or DriverError raised."""
        return self._state is _State.CLOSED

    @property
    def num_undecided(self) -> int:
        """Segments whose verdict is awaited or waits for an earlier one: what a driver bounds."""
        return len(self._pending)

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_text(self, event: TextDelta) -> list[Action]:
        self._expect(event, _State.RUNNING, _State.RESUMING)
        self._state = _State.RUNNING
        actions: list[Action] = []
        if event.channel != self._channel:
            self._close_channel(actions)
            self._open_channel(event.channel)
        self._shown.append(event.text)
        self._length += len(event.text)
        if self._channel == "reasoning" and event.text.strip():
            self._has_reasoning = True
        if self._is_watched():
            for segment in self._segmenter.push(event.text):
                self._classify(self._base + segment.start, self._base + segment.end, actions)
        self._shown.forget(self._oldest_undecided())
        self._release(actions)
        return actions

    def _on_verdict(self, event: Verdict) -> list[Action]:
        if not 0 <= event.segment_id < self._next_id:
            raise self._impossible(f"verdict for segment {event.segment_id}, which was never handed out")
        place = event.segment_id - (self._next_id - len(self._pending))  # the pending are the last handed out
        if place < 0:
            return []  # of a leg that has been cut, or a stream that has been refused
        pending = self._pending[place]
        if pending.is_judged:
            raise self._impossible(f"second verdict for segment {event.segment_id}")
        # NaN would compare as no cue: it is a verdict that failed.
        pending.score = None if event.score is None or math.isnan(event.score) else event.score
        pending.is_judged = True
        return self._settle()

    def _on_end(self, event: StreamEnd) -> list[Action]:
        self._expect(event, _State.RUNNING, _State.RESUMING)
        actions: list[Action] = []
        self._close_channel(actions)
        self._finish_reason = event.reason
        if self.policy.mode == "monitor":
            # Late verdicts may still be observed, but the client is not made to wait for them.
            self._state = _State.CLOSED
            self._release(actions)
            return [*actions, Finish(event.reason)]
        self._state = _State.DRAINING
        return actions + self._settle()

    def _on_halted(self, event: Halted) -> list[Action]:
        self._expect(event, _State.HALTING)
        assert self._halt is not None  # HALTING says so
        halt, self._halt = self._halt, None
        if not 0 <= event.kept <= halt.at:
            raise self._impossible(f"kept {event.kept} characters of a leg halted at {halt.at}")
        if self.interventions >= self.policy.max_interventions:
            return self._refuse(event.kept, "max_interventions")
        if not self._can_resume:
            return self._refuse(event.kept, "cannot_resume")
        self.interventions += 1
        trigger, probability = self._triggers.draw(self._rng, self._used)
        self._used.add(trigger.id)
        before = self._shown.before(event.kept)
        text = trigger.text if not before or before[-1].isspace() else f" {trigger.text}"
        self._shown.start_leg(event.kept, text)
        self._start_leg(halt.channel)
        self._state = _State.RESUMING
        return [Splice(trigger.id, halt.channel, text, probability), Resume(event.kept, halt.channel)]

    # -- verdicts and releases ------------------------------------------------------------------------------------

    def _settle(self) -> list[Action]:
        """Take verdicts in segment order until one is missing or a cue is met."""
        actions: list[Action] = []
        while self._pending and self._pending[0].is_judged:
            pending = self._pending.popleft()
            if pending.score is None:
                self.failed_verdicts += 1
                if self.policy.on_failure == "fail_closed" and self.policy.mode != "monitor":
                    return actions + self._refuse(pending.start, "detector_failure")
            elif pending.score >= self.policy.threshold:
                return actions + self._cue(pending, pending.score)
        self._release(actions)
        if self._state is _State.DRAINING and not self._pending:
            self._state = _State.CLOSED
            actions.append(Finish(self._finish_reason))
        return actions

    def _cue(self, pending: _Pending, score: float) -> list[Action]:
        if self.policy.mode == "monitor":
            self._observed = True
            self._pending.clear()
            return [Observe(pending.segment_id, pending.channel, pending.start, pending.text, score)]
        actions: list[Action] = []
        self._release_to(pending.start, actions)
        self._pending.clear()
        self._state = _State.HALTING
        self._halt = Halt(pending.segment_id, pending.channel, pending.start, pending.text, score)
        return [*actions, self._halt]

    def _release(self, actions: list[Action]) -> None:
        if self.policy.mode != "hold":
            self._release_to(self._length, actions)
        elif self._pending:
            self._release_to(self._pending[0].start, actions)
        elif self._is_watched() and self._state is not _State.DRAINING:
            self._release_to(self._base + self._segmenter.start, actions)
        else:
            self._release_to(self._length, actions)

    def _release_to(self, up_to: int, actions: list[Action]) -> None:
        if up_to > self._released:
            self._released = up_to
            actions.append(Release(up_to))

    def _refuse(self, at: int, cause: RefusalCause) -> list[Action]:
        actions: list[Action] = []
        self._release_to(at, actions)
        self._pending.clear()
        self._state = _State.CLOSED
        return [*actions, Refuse(at, cause), Finish("content_filter")]

    # -- legs and channels ----------------------------------------------------------------------------------------

    def _start_leg(self, channel: Channel) -> None:
        self._length = 0  # characters of this leg so far
        self._released = 0
        self._pending: deque[_Pending] = deque()
        self._has_reasoning = False
        self._finish_reason = ""
        self._open_channel(channel)

    def _open_channel(self, channel: Channel) -> None:
        self._channel: Channel = channel
        self._base = self._length
        self._segmenter = Segmenter(self.policy.max_segment_chars)

    def _close_channel(self, actions: list[Action]) -> None:
        if self._is_watched():
            for segment in self._segmenter.flush():
                self._classify(self._base + segment.start, self._base + segment.end, actions)

    def _is_watched(self) -> bool:
        """Whether this channel is judged. Without any reasoning the answer is where a cue would stand."""
        if self._observed:
            return False
        return self._channel == "reasoning" or self._watch_answer or not self._has_reasoning

    def _classify(self, start: int, end: int, actions: list[Action]) -> None:
        text = self._shown.slice(start, end)
        pending = _Pending(self._next_id, self._channel, start, end, text)
        self._next_id += 1
        self._pending.append(pending)
        before = self._shown.before(start)
        actions.append(Classify(pending.segment_id, self._channel, start, end, text, before))

    def _oldest_undecided(self) -> int:
        """Offset before which text of this leg is needed only as context."""
        if self._pending:
            return self._pending[0].start
        return self._base + self._segmenter.start if self._is_watched() else self._length

    def _expect(self, event: Event, *states: _State) -> None:
        if self._state not in states:
            raise self._impossible(f"{type(event).__name__} while {self._state.value}")

    def _impossible(self, what: str) -> DriverError:
        """The error to raise; the engine is closed, so that a driver that goes on all the same shows no more."""
        self._pending.clear()
        self._state = _State.CLOSED
        return DriverError(what)
