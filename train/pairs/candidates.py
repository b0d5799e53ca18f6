"""Divergences: every place in a rollout where two continuations of one prefix are known.

Two forms. A *spliced* divergence has the cue side (what the model wrote) and the trigger side (a trigger and what the
model wrote after it); which of them is to be preferred depends on the request, and is for `train.pairs.rules` to say.
A *sampled* one has two whole samples of one benign prompt.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from train.judges.base import JudgeItem
from train.rollout.generator import FinishReason
from train.rollout.text import leg_text
from train.rollout.trace import Leg, Rollout
from train.rollout.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Continuation:
    """One side: ids from the divergence on, and how they ended (None: cut short by a live halt)."""

    token_ids: list[int]
    finish_reason: FinishReason | None
    reasoning: str  # the whole trace's, the prefix included
    answer: str

    def item(self, rollout: Rollout) -> JudgeItem:
        """What a judge is shown of it."""
        return JudgeItem(rollout.messages, self.reasoning, self.answer)


@dataclass(frozen=True, slots=True)
class Divergence:
    """`first` is the cue side, `second` the trigger side (or two samples). `place` tells of sample, branch, attempt."""

    form: Literal["spliced", "sampled"]
    rollout: Rollout
    place: str
    kept: list[int]
    first: Continuation
    second: Continuation
    attempt: int = 0
    trigger_id: str | None = None
    trigger_tokens: int = 0
    cue_tokens: int = 0
    is_forced: bool = False


def divergences(rollout: Rollout, vocabulary: Vocabulary) -> Iterator[Divergence]:
    """All of one rollout, in order."""
    trace = _Tracer(rollout, vocabulary)
    for number, sample in enumerate(rollout.samples):
        for place, branch in enumerate(sample.branches):
            kept, leg = list(rollout.given.token_ids or []), sample.base
            for attempt, step in enumerate(branch.steps):
                if leg.cut is None or step.leg is None:
                    break
                kept = kept + leg.token_ids[: leg.cut.kept_tokens]
                trigger = step.trigger.token_ids
                yield Divergence(
                    form="spliced",
                    rollout=rollout,
                    place=f"{number}.{place}.{attempt}",
                    kept=kept,
                    first=trace.side(kept, leg.token_ids[leg.cut.kept_tokens :], leg),
                    second=trace.side(kept, trigger + step.leg.token_ids, step.leg),
                    attempt=rollout.attempt + attempt,
                    trigger_id=step.trigger_id,
                    trigger_tokens=len(trigger),
                    cue_tokens=leg.cut.cue_tokens,
                    is_forced=leg.cut.is_forced,
                )
                kept, leg = kept + trigger, step.leg
    if rollout.label == "benign" and rollout.record_id is None:
        yield from _sampled(rollout, trace)


def base_item(rollout: Rollout, number: int) -> JudgeItem:
    """What a judge is shown of an unsteered sample."""
    base = rollout.samples[number].base
    return JudgeItem(rollout.messages, base.reasoning, base.answer)


def _sampled(rollout: Rollout, trace: "_Tracer") -> Iterator[Divergence]:
    whole = [(number, sample.base) for number, sample in enumerate(rollout.samples) if sample.base.token_ids]
    for (i, first), (j, second) in combinations(whole, 2):
        yield Divergence(
            form="sampled",
            rollout=rollout,
            place=f"{i}-{j}",
            kept=[],
            first=trace.side([], first.token_ids, first),
            second=trace.side([], second.token_ids, second),
        )


class _Tracer:
    """Reads whole traces of one rollout."""

    def __init__(self, rollout: Rollout, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._opening = vocabulary.opening(rollout.prompt_token_ids, None)

    def side(self, kept: Sequence[int], ids: list[int], leg: Leg) -> Continuation:
        said, _ = self._vocabulary.split_end(ids, is_ended=leg.finish_reason == "stop")
        raw = self._vocabulary.decode([*kept, *said])
        text = leg_text([raw], self._opening, self._vocabulary.markers)
        return Continuation(ids, leg.finish_reason, text.of("reasoning"), text.of("answer"))
