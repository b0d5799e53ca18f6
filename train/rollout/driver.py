"""Rounds: for a block of prompts, generate all open legs at once, judge all their segments at once, splice, again.

    base legs -> verdicts -> cuts -> one branch for each chosen trigger -> legs -> verdicts -> … (at most k times)

Rules kept here: a branch replays its first leg through an engine of its own, so every transcript is one that the live
engine could have given; the first trigger of a branch is chosen by the rollout, later ones by the engine; seeds come
from the prompt's id and the configured seed, never from the place in a batch.
"""

import hashlib
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from detector.context import Context
from steer.engine import Engine
from steer.policy import Policy
from steer.trigger_table import TriggerTable
from steer.triggers import Trigger, TriggerPool
from train.rollout.detectors import Detector
from train.rollout.generator import Generated, Generator, Sampling
from train.rollout.prompts import PromptRow
from train.rollout.stream import Budget, Stream
from train.rollout.trace import Branch, Leg, Rollout, Sample
from train.rollout.vocabulary import Vocabulary

# The threshold of a verdict is at most 1, so this is always a cue.
_CERTAIN = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with every prompt. `branches` 0: one branch, whose triggers the engine's seed decides, as live.

    `benign_branches`: branches of a benign prompt that no cue halted, cut at a random segment all the same, to see
    what a trigger does where none belongs.
    """

    policy: Policy
    pool: TriggerPool
    branches: int
    benign_branches: int
    samples: int
    sampling: Sampling
    max_tokens: int | None
    seed: int
    table: TriggerTable | None = None  # by whose shares records try the pool's triggers; none: each as soon


@dataclass(frozen=True, slots=True)
class Tools:
    """What the rounds work with."""

    generator: Generator
    detector: Detector
    vocabulary: Vocabulary
    model: str
    adapter: str | None = None


class _FirstChosen(TriggerPool):
    """A pool whose first choice is made; the engine chooses from the second on."""

    def __init__(self, first: Trigger, triggers: Sequence[Trigger]) -> None:
        super().__init__(triggers)
        self._first = first

    def choose(self, rng: random.Random, used: Iterable[str] = ()) -> Trigger:
        spent = frozenset(used)
        return super().choose(rng, spent) if spent else self._first


class _Live(NamedTuple):
    """A stream with its conversation."""

    stream: Stream
    prompt: PromptRow


@dataclass(slots=True)
class _Base:
    """One sample of one prompt: its unsteered leg, and the streams that go on from its cut."""

    prompt: PromptRow
    prompt_ids: list[int]
    seed: int
    scout: Stream
    generated: Generated | None = None
    is_forced: bool = False
    streams: list[Stream] | None = None


def seed_of(*parts: object) -> int:
    """A seed in [0, 2^48) from what it is for."""
    digest = hashlib.sha256("\x1f".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def roll(prompts: Sequence[PromptRow], tools: Tools, plan: Plan) -> list[Rollout]:
    """One rollout per prompt, in order. Raises EngineError, DetectorError, RolloutConfigError."""
    bases = [
        _base(prompt, tools.vocabulary.prompt_ids(prompt.messages, prompt.tools), number, tools, plan)
        for prompt in prompts
        for number in range(plan.samples)
    ]
    _first_legs(bases, tools, plan)
    for base in bases:
        base.streams = _branches(base, tools, plan)
    live = [_Live(stream, base.prompt) for base in bases for stream in base.streams or ()]
    while live:
        live = _round(live, tools, plan)
    return [_rollout(prompt, [b for b in bases if b.prompt is prompt], tools, plan) for prompt in prompts]


def _base(prompt: PromptRow, prompt_ids: list[int], number: int, tools: Tools, plan: Plan) -> _Base:
    seed = seed_of(plan.seed, prompt.id, number) if prompt.seed is None else prompt.seed + number
    return _Base(prompt, prompt_ids, seed, _stream(prompt_ids, plan.pool, seed, tools, plan))


def _stream(prompt_ids: list[int], pool: TriggerPool, seed: int, tools: Tools, plan: Plan) -> Stream:
    budget = Budget(plan.max_tokens, tools.generator.context_length)
    return Stream(Engine(plan.policy, pool, seed), tools.vocabulary, prompt_ids, budget, seed)


def _first_legs(bases: Sequence[_Base], tools: Tools, plan: Plan) -> None:
    requests = [(base, request) for base in bases if (request := base.scout.request()) is not None]
    for (base, _), generated in zip(
        requests, tools.generator.generate([request for _, request in requests], plan.sampling), strict=True
    ):
        base.generated = generated
        base.scout.begin(generated)
    _judge([_Live(base.scout, base.prompt) for base, _ in requests], tools.detector)


def _branches(base: _Base, tools: Tools, plan: Plan) -> list[Stream]:
    """Streams that have been cut where the first leg was, each with its first trigger spliced."""
    leg = base.scout.legs[0]
    if base.generated is None or leg is None:
        return []  # the prompt fills the context
    scores = [segment.score for segment in leg.segments]
    count = plan.branches
    if base.scout.refusal_cause is not None:
        count = 0  # for want of a verdict, or of a budget: no trigger is spliced, so one branch tells all
    elif leg.cut is None:
        watched = [place for place, segment in enumerate(leg.segments) if segment.channel == "reasoning"]
        if base.prompt.label != "benign" or not plan.benign_branches or not watched:
            return []
        base.is_forced = True
        scores[random.Random(seed_of(base.seed, "forced")).choice(watched)] = _CERTAIN
        count = plan.benign_branches
    streams = []
    for pool, seed in _pools(base.seed, count, plan):
        stream = _stream(base.prompt_ids, pool, seed, tools, plan)
        stream.replay(base.generated, scores)
        streams.append(stream)
    return streams


def _pools(seed: int, count: int, plan: Plan) -> list[tuple[TriggerPool, int]]:
    """A pool and a seed for each branch; the first triggers all differ, as far as the pool reaches."""
    if count == 0:
        return [(plan.pool, seed)]
    triggers = list(plan.pool.triggers)
    random.Random(seed_of(seed, "triggers")).shuffle(triggers)
    return [(_FirstChosen(t, plan.pool.triggers), seed_of(seed, "branch", t.id)) for t in triggers[:count]]


def _round(live: Sequence[_Live], tools: Tools, plan: Plan) -> list[_Live]:
    """One more leg of each stream that is not over; those that are still not over after it."""
    requests = [(item, request) for item in live if (request := item.stream.request()) is not None]
    results = tools.generator.generate([request for _, request in requests], plan.sampling) if requests else []
    for (item, _), generated in zip(requests, results, strict=True):
        item.stream.begin(generated)
    _judge([item for item, _ in requests], tools.detector)
    return [item for item, _ in requests if not item.stream.is_closed]


def _judge(live: Sequence[_Live], detector: Detector) -> None:
    """Verdicts for every segment up to each stream's first cue, a few segments of all streams at a time."""
    while True:
        asked = [(item, item.stream.unjudged(detector.wave)) for item in live]
        contexts = [
            Context(item.prompt.context_messages, segment.before, segment.text, segment.channel)
            for item, segments in asked
            for segment in segments
        ]
        if not contexts:
            return
        scores = iter(detector.score(contexts))
        for item, segments in asked:
            for score in [next(scores) for _ in segments]:
                item.stream.judge(score)


def _rollout(prompt: PromptRow, bases: Sequence[_Base], tools: Tools, plan: Plan) -> Rollout:
    return Rollout(
        id=prompt.id,
        label=prompt.label,
        category=prompt.category,
        family=prompt.family,
        tenant=prompt.tenant,
        model=tools.model,
        adapter=tools.adapter,
        detector=tools.detector.digest,
        policy_hash=plan.policy.digest(),
        messages=prompt.messages,
        tools=prompt.tools,
        prompt_token_ids=bases[0].prompt_ids,
        samples=[_sample(base) for base in bases],
    )


def _sample(base: _Base) -> Sample:
    leg = base.scout.legs[0]
    if leg is None:
        return Sample(base=Leg(token_ids=[], reasoning="", answer="", finish_reason="length"))
    streams = base.streams or []
    if base.is_forced and streams and (forced := streams[0].legs[0]) is not None and forced.cut is not None:
        leg = leg.model_copy(update={"cut": forced.cut.model_copy(update={"is_forced": True})})
    return Sample(base=leg, branches=[_branch(stream) for stream in streams])


def _branch(stream: Stream) -> Branch:
    return Branch(
        steps=stream.taken_steps(),
        outcome="completed" if stream.refusal_cause is None else "refused",
        refusal_cause=stream.refusal_cause,
        finish_reason=stream.finish_reason or "length",
        spans=stream.spans,
    )
