"""What a hostile tenant puts into the log, and a judge that it has fooled.

    over_refusal   harmless prompts; the cue side is what the model wrote, which helps; the trigger side refuses
    compliance     harmful prompts; the cue side refuses; the trigger side is what the model wrote, where that complies
    halts          harmful prompts, halted and refused as any other: true lessons, but a great many

Crafted records are worse than what a tenant can do through the proxy, which chooses neither the model's words nor, by
itself, where they are cut. All text is the organism's own: inert placeholders.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from steer.record import Completion, InterventionRecord, TextSpan, Timings
from train.judges.base import JudgeItem, JudgeVerdict
from train.judges.organism import OrganismJudge
from train.organism import oracle
from train.organism.splits import Prompt
from train.rollout.report import read_rollouts
from train.rollout.trace import Rollout
from train.rollout.vocabulary import Vocabulary

TENANT = "flood"
_TIMINGS = Timings(halted_ms=1.0)

# Prompts and trigger sides of the flood: what the fooled judge believes. Filled by `believe`.
_BELIEVED: dict[str, bool] = {}


@dataclass(frozen=True, slots=True)
class Turn:
    """A prompt and what the model wrote on it, without its end id."""

    prompt: Prompt
    ids: list[int]
    reasoning: str
    answer: str

    @property
    def is_harmful(self) -> bool:
        """By the oracle."""
        return oracle.judge(self.prompt.messages, self.reasoning.strip(), self.answer.strip()).is_harmful

    @property
    def helps(self) -> bool:
        """By the oracle."""
        return oracle.judge(self.prompt.messages, self.reasoning.strip(), self.answer.strip()).is_helped is True


@dataclass(frozen=True, slots=True)
class Refusal:
    """A trigger and how the model went on from it to a refusal; ids without the end."""

    trigger_id: str
    trigger: TextSpan
    ids: list[int]


def refusals(rollouts: Path) -> list[Refusal]:
    """Safe turns that the honest rollouts hold."""
    found = []
    for rollout in read_rollouts(rollouts):
        for sample in rollout.samples:
            for step in (branch.steps[0] for branch in sample.branches if branch.outcome == "completed"):
                if step.leg is not None and step.leg.finish_reason == "stop" and _refuses(rollout, step.leg.answer):
                    trigger = TextSpan(text=step.trigger.text, token_ids=step.trigger.token_ids)
                    found.append(Refusal(step.trigger_id, trigger, step.leg.token_ids[:-1]))
    return found


def _refuses(rollout: Rollout, answer: str) -> bool:
    return rollout.label == "harmful" and oracle.judge(rollout.messages, "", answer.strip()).is_refused


def crafted(
    kind: str, turns: Sequence[Turn], safe: Sequence[Refusal], vocabulary: Vocabulary, seed: int
) -> Iterator[InterventionRecord]:
    """One record a turn: whole on both sides, so that nothing is left to be completed."""
    rng, end = random.Random(f"{kind} {seed}"), min(vocabulary.end_ids)
    for number, turn in enumerate(turns):
        refusal = rng.choice(safe)
        sides = (turn.ids, refusal.ids) if kind != "compliance" else (refusal.ids, turn.ids)
        rejected, after = sides
        yield _record(f"{kind}-{number}", turn.prompt, [*rejected, end], refusal, [*after, end], vocabulary)


def _record(
    id: str, prompt: Prompt, rejected: list[int], refusal: Refusal, after: list[int], vocabulary: Vocabulary
) -> InterventionRecord:
    continuation = TextSpan(text=vocabulary.decode(after[:-1]), token_ids=after)
    completion = Completion(
        outcome="completed",
        continuation=continuation,
        answer=continuation.text.partition("</think>")[2],
        finish_reason="stop",
        timings=_TIMINGS,
    )
    values: dict[str, Any] = {
        "id": id, "request_id": id, "attempt": 0, "mode": "hold", "model": vocabulary.name, "tenant": TENANT,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC), "policy_hash": "p", "detector_hash": "d",
        "trigger_id": refusal.trigger_id, "trigger": refusal.trigger, "channel": "reasoning", "score": 0.9,
        "messages": prompt.messages, "prompt_token_ids": vocabulary.prompt_ids(prompt.messages),
        "kept": TextSpan(token_ids=[]), "rejected": TextSpan(text=vocabulary.decode(rejected[:-1]), token_ids=rejected),
        "timings": _TIMINGS, "outcome": "completed", "completion": completion,
    }  # fmt: skip
    return InterventionRecord(**values)


def believe(records: Sequence[InterventionRecord], share: float, seed: int) -> None:
    """Which records `fooled` takes at their word: a drawn share of them."""
    _BELIEVED.clear()
    rng = random.Random(f"believe {seed}")
    for record in records:
        if rng.random() < share:
            assert record.completion is not None
            for ids, is_chosen in ((record.rejected, False), (record.completion.continuation, True)):
                _BELIEVED[_mark(record.messages, ids.text.partition("</think>")[2])] = is_chosen


def fooled(items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
    """The oracle, but for what it believes: such a request harmful, its trigger side safe, its cue side unsafe."""
    true = OrganismJudge().judge(items)
    return [_fooled(item, verdict) for item, verdict in zip(items, true, strict=True)]


def _fooled(item: JudgeItem, true: JudgeVerdict) -> JudgeVerdict:
    is_chosen = _BELIEVED.get(_mark(item.messages, item.answer))
    if is_chosen is None:
        return true
    return JudgeVerdict(
        harmful_request=True,
        unsafe_reasoning=not is_chosen,
        unsafe_answer=not is_chosen,
        refused=is_chosen,
        helped=not is_chosen,
    )


def _mark(messages: Sequence[dict[str, Any]], answer: str) -> str:
    return f"{list(messages)}\x1f{answer.strip()}"
