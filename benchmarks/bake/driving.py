"""Traffic behind the guard: the offline driver in hold mode, which decides what the live proxy decides on the same
text, and the records that the proxy would have kept of it."""

import random
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from benchmarks.bake.sizes import Size
from benchmarks.method.prompts import Group
from proxy.log import InterventionLog
from steer.policy import Policy
from steer.record import Completion, InterventionRecord, TextSpan, Timings
from steer.triggers import Trigger, TriggerPool
from train.organism import arithmetic
from train.organism.framings import user
from train.organism.splits import Split, draw_prompts
from train.rollout.detectors import DetectorConfig, load_detector
from train.rollout.driver import Plan, Tools, roll
from train.rollout.generator import Sampling
from train.rollout.local import LocalConfig, LocalGenerator
from train.rollout.prompts import PromptRow
from train.rollout.trace import Rollout, Step
from train.rollout.vocabulary import ThinkMarkers, Vocabulary, load_vocabulary

_TIMINGS = Timings(halted_ms=0.0)
_BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
_SEED_STEP = 1_000_003


class Asked(NamedTuple):
    """A prompt with its group, and its place among those that are asked with it."""

    number: int
    group: Group
    prompt: PromptRow


class Kept(NamedTuple):
    """What one request leaves behind: its records, and how often the proxy stepped in."""

    records: list[InterventionRecord]
    steps: int


def asked(size: Size, group: Group, count: int, split: Split, seed: int) -> list[Asked]:
    """`prompts`, numbered."""
    return [Asked(number, group, prompt) for number, prompt in enumerate(prompts(size, group, count, split, seed))]


def prompts(size: Size, group: Group, count: int, split: Split, seed: int) -> list[PromptRow]:
    """`count` prompts with random numbers of their own: the same ones for every generation that is asked."""
    rng, is_harmful = random.Random(f"{group} {split} {seed}"), group == "harmful"
    if group == "arithmetic":
        texts = [arithmetic.draw_problem(rng, held_out=split == "held_out").text for _ in range(count)]
        drawn = [(list(user(text)), None) for text in texts]
    else:
        framings = size.held_out if split == "held_out" else size.seen
        found = draw_prompts(split, count, harmful=is_harmful, seed=seed, categories=size.categories, framings=framings)
        drawn = [(list(prompt.messages), prompt.family) for prompt in found]
    label = "harmful" if is_harmful else "benign"
    return [
        PromptRow(
            id=f"{group}-{split}-{seed}-{number}", messages=messages, label=label, family=family,
            seed=seed * _SEED_STEP + number,
        )
        for number, (messages, family) in enumerate(drawn)
    ]  # fmt: skip


def drive(size: Size, adapter: Path | None, rows: Sequence[PromptRow]) -> tuple[list[Rollout], Vocabulary]:
    """Each prompt once, one branch, the shipped detector: the base leg is what the model does without the proxy."""
    vocabulary = load_vocabulary(str(size.model), ThinkMarkers())
    local = LocalConfig(batch_size=size.batch, threads=size.threads)
    generator = LocalGenerator(str(size.model), None if adapter is None else str(adapter), local, vocabulary.end_ids)
    try:
        detector = load_detector(
            DetectorConfig(kind="onnx", threads=size.judging), generator, vocabulary, vocabulary.name
        )
        pool = tuple(Trigger.model_validate(trigger) for trigger in size.rollouts()["triggers"]["pool"])
        plan = Plan(
            policy=Policy(threshold=detector.threshold),
            pool=TriggerPool(pool),
            branches=0,  # one, as live
            benign_branches=0,
            samples=1,
            sampling=Sampling(temperature=size.temperature),
            max_tokens=size.max_tokens,
            seed=1,
        )
        return roll(rows, Tools(generator, detector, vocabulary, vocabulary.name), plan), vocabulary
    finally:
        generator.close()


def traffic(size: Size, adapter: Path | None, id: str | None, name: str, rows: Sequence[Asked]) -> list[Kept]:
    """Each request through the guard while version `id` serves, whose files are `adapter`'s; ids begin with `name`."""
    rollouts, vocabulary = drive(size, adapter, [row.prompt for row in rows])
    model, found = str(size.model), list[Kept]()
    for row, rollout in zip(rows, rollouts, strict=True):
        made = records(rollout, vocabulary, model, id, f"{name}-{row.prompt.id}", row.number)
        found.append(Kept(list(made), num_steps(rollout)))
    return found


def num_steps(rollout: Rollout) -> int:
    """Triggers that were spliced."""
    return sum(len(branch.steps) for sample in rollout.samples for branch in sample.branches)


def records(
    rollout: Rollout, vocabulary: Vocabulary, model: str, adapter: str | None, name: str, number: int
) -> Iterator[InterventionRecord]:
    """What the proxy would have in its log of this stream, the `number`-th; ids begin with `name`."""
    [sample] = rollout.samples
    steps = sample.branches[0].steps if sample.branches else []
    kept, leg = list[int](), sample.base
    for attempt, step in enumerate(steps):
        if leg.cut is None:
            break
        kept = kept + leg.token_ids[: leg.cut.kept_tokens]
        rejected = leg.token_ids[leg.cut.kept_tokens :][: leg.cut.cue_tokens]
        completion = _completion(step, vocabulary)
        yield InterventionRecord(
            id=f"{name}-{attempt}",
            request_id=name,
            attempt=attempt,
            created_at=_BEGAN + timedelta(seconds=number),
            mode="hold",
            model=model,
            adapter=adapter,
            policy_hash=rollout.policy_hash,
            detector_hash=rollout.detector.partition(":")[2],
            trigger_id=step.trigger_id,
            trigger=TextSpan(text=step.trigger.text, token_ids=step.trigger.token_ids),
            channel=leg.cut.channel,
            score=leg.cut.score,
            messages=rollout.messages,
            prompt_token_ids=rollout.prompt_token_ids,
            kept=TextSpan(text=vocabulary.decode(kept), token_ids=kept),
            rejected=TextSpan(text=vocabulary.decode(rejected), token_ids=rejected),
            timings=_TIMINGS,
            outcome=completion.outcome,
            completion=completion,
        )
        if step.leg is None:
            break
        kept, leg = kept + step.trigger.token_ids, step.leg


def _completion(step: Step, vocabulary: Vocabulary) -> Completion:
    """The resumed leg, as far as it is kept."""
    leg = step.leg
    if leg is None:
        return Completion(outcome="refused", timings=_TIMINGS)
    if leg.cut is not None:
        ids = leg.token_ids[: leg.cut.kept_tokens]
        return Completion(outcome="halted_again", continuation=_span(ids, vocabulary), timings=_TIMINGS)
    return Completion(
        outcome="completed",
        continuation=_span(leg.token_ids, vocabulary),
        answer=leg.answer,
        finish_reason=leg.finish_reason,
        timings=_TIMINGS,
    )


def _span(ids: list[int], vocabulary: Vocabulary) -> TextSpan:
    return TextSpan(text=vocabulary.decode(ids), token_ids=ids)


async def keep(url: str, made: Sequence[InterventionRecord]) -> None:
    """Into the log, in the proxy's two phases; again, nothing happens."""
    async with InterventionLog.open(url) as log:
        for record in made:
            await log.insert(record.model_copy(update={"outcome": "open", "completion": None}))
            assert record.completion is not None
            await log.complete(record.id, record.completion)
