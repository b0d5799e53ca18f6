"""A driver that is as unhelpful as a real one can be: random chunks, late verdicts in any order, and no mercy.

`drive` runs one engine over scripted legs and returns what a client would have seen. `expected` says what that must be,
from the whole text, without an engine: the two are written independently of each other.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from steer.engine import Engine
from steer.events import (
    Action,
    Channel,
    Classify,
    Event,
    Finish,
    Halt,
    Halted,
    Observe,
    Refuse,
    Release,
    Resume,
    Splice,
    StreamEnd,
    TextDelta,
    Verdict,
)
from steer.policy import Policy
from steer.segmenter import segment
from steer.shown import OPENING_CHARS, TAIL_CHARS, WHOLE_CHARS
from steer.triggers import TriggerPool

Leg = list[tuple[Channel, str]]
Score = Callable[[str], float | None]


@dataclass
class Transcript:
    """What a client saw, and what the driver was told to do."""

    shown: str = ""
    kept: list[str] = field(default_factory=list)  # text kept of each halted leg
    resumed_from: list[str] = field(default_factory=list)
    triggers: list[str] = field(default_factory=list)
    refusal: Refuse | None = None
    finish: str | None = None
    observed: Observe | None = None
    halts: int = 0
    max_undecided: int = 0
    past_cut: bool = False


def context_of(text: str) -> str:
    """What a segment after `text` must be judged with."""
    return text if len(text) <= WHOLE_CHARS else text[:OPENING_CHARS] + text[-TAIL_CHARS:]


def chunks(rng: random.Random, leg: Leg, largest: int) -> list[TextDelta]:
    """The leg's text in random pieces, with empty deltas here and there."""
    pieces: list[TextDelta] = []
    for channel, text in leg:
        at = 0
        pieces.append(TextDelta(channel, ""))
        while at < len(text):
            size = rng.randint(0, largest)
            pieces.append(TextDelta(channel, text[at : at + size]))
            at += size
    return pieces


class RudeDriver:
    """Carries out one engine's orders over scripted legs; leg i is what the upstream says after i resumes."""

    def __init__(
        self, rng: random.Random, legs: list[Leg], score: Score, policy: Policy, seed: int, can_resume: bool
    ) -> None:
        self.rng, self.legs, self.score = rng, legs, score
        self.engine = Engine(policy, TriggerPool(), seed, can_resume=can_resume)
        self.out = Transcript()
        self.largest = rng.choice([1, 3, 12, 60, 400])
        self.patience = rng.choice([0.0, 0.1, 0.5, 0.95])
        self.verdicts: list[Verdict] = []
        self.leg_index = 0
        self.prefix = ""
        self._begin()

    def _begin(self) -> None:
        self.leg = self.legs[min(self.leg_index, len(self.legs) - 1)]
        self.leg_text = "".join(text for _, text in self.leg)
        self.feed: list[Event] = [*chunks(self.rng, self.leg, self.largest), StreamEnd("stop")]
        self.released = 0
        self.base = self.out.shown

    def run(self) -> Transcript:
        while not self.engine.is_closed or self.verdicts:
            if self.verdicts and (not self.feed or self.rng.random() > self.patience):
                self._act(self.engine.feed(self.verdicts.pop(self.rng.randrange(len(self.verdicts)))))
            elif self.feed:
                self._act(self.engine.feed(self.feed.pop(0)))
            else:
                raise AssertionError("stuck: nothing to feed and not closed")
            self.out.max_undecided = max(self.out.max_undecided, self.engine.num_undecided)
        return self.out

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Release(up_to):
                    assert up_to > self.released, "releases only grow"
                    self.released = up_to
                    self.out.shown = self.base + self.leg_text[:up_to]
                case Classify(segment_id, _, start, end, text, before):
                    assert text == self.leg_text[start:end]
                    assert before == context_of(self.prefix + self.leg_text[:start])
                    self.verdicts.append(Verdict(segment_id, self.score(text)))
                case Observe():
                    assert self.out.observed is None
                    self.out.observed = action
                case Halt(at=at, text=text):
                    self.out.halts += 1
                    assert self.leg_text[at : at + len(text)] == text
                    self.feed = []
                    kept = at if self.rng.random() < 0.8 else max(0, at - self.rng.randint(0, 3))
                    kept = max(kept, min(self.released, at) if self.engine.policy.mode == "tap" else kept)
                    self.out.kept.append(self.leg_text[:kept])
                    self.out.shown = self.base + self.leg_text[: max(kept, self.released if self.is_tap else 0)]
                    self.prefix += self.leg_text[:kept]
                    self._act(self.engine.feed(Halted(kept)))
                case Splice(trigger_id, _, text):
                    self.out.triggers.append(trigger_id)
                    self.prefix += text
                    self.out.shown += text
                case Resume():
                    self.out.resumed_from.append(self.prefix)
                    self.leg_index += 1
                    self._begin()
                case Refuse():
                    self.out.refusal = action
                    self.feed = []
                case Finish(reason):
                    assert self.out.finish is None, "exactly one Finish"
                    self.out.finish = reason
                    self.feed = []

    @property
    def is_tap(self) -> bool:
        return self.engine.policy.mode == "tap"


def joined(leg: Leg) -> Leg:
    """The leg with neighbouring parts of one channel made one: what a channel's text is to the engine."""
    parts: Leg = []
    for channel, text in leg:
        if parts and parts[-1][0] == channel:
            parts[-1] = (channel, parts[-1][1] + text)
        else:
            parts.append((channel, text))
    return parts


def first_cue(leg: Leg, score: Score, policy: Policy) -> int | None:
    """Start of the first watched segment that is a cue (or can't be judged, under fail_closed); None without one."""
    base, has_reasoning = 0, False
    for channel, text in joined(leg):
        has_reasoning = has_reasoning or (channel == "reasoning" and bool(text.strip()))
        if channel == "reasoning" or policy.scope == "all" or not has_reasoning:
            for piece in segment(text, policy.max_segment_chars):
                value = score(text[piece.start : piece.end])
                if value is None and policy.on_failure == "fail_open":
                    continue
                if value is None or value >= policy.threshold:
                    return base + piece.start
        base += len(text)
    return None
