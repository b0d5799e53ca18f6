"""Completes intervention records: the side that a live halt cut short, and the side that nobody generated.

A halted record's rejected side ends where the stream was cut; a record of monitor mode, or of a refusal, has no chosen
side at all. Both are generated from the record's own ids by the model that was recorded, for training alone: nothing of
it is shown to anyone. Each record becomes a rollout whose first leg is the rejected side, cut at its start.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from steer.events import Channel
from steer.record import InterventionRecord
from steer.segmenter import segment
from steer.selection import UNKNOWN
from steer.triggers import Trigger
from train.rollout.driver import Plan, Tools, seed_of
from train.rollout.errors import RolloutConfigError
from train.rollout.generator import Generated, Request
from train.rollout.stream import Budget
from train.rollout.text import leg_text
from train.rollout.trace import Branch, Cut, Leg, Rollout, Sample, Span, Step
from train.rollout.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A record to complete. Its id is the record's."""

    record: InterventionRecord

    @property
    def id(self) -> str:
        """The key of its line."""
        return self.record.id


class Skipped(NamedTuple):
    """Records that can't be completed, counted by reason."""

    no_token_ids: int
    other_model: int


def read_records(path: Path, error_kind: type[Exception] = RolloutConfigError) -> list[InterventionRecord]:
    """All records of a JSONL file. Raises `error_kind` naming file, line and field."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise error_kind(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise error_kind(f"{path} is not UTF-8: give the JSONL that `steer log export` writes") from error
    return [_record(line, f"{path}, line {n}", error_kind) for n, line in enumerate(lines, 1) if line.strip()]


def _record(line: str, where: str, error_kind: type[Exception]) -> InterventionRecord:
    try:
        return InterventionRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        raise error_kind(f"{where}: {'.'.join(map(str, first['loc'])) or 'record'}: {first['msg']}") from error


def completable(
    records: Sequence[InterventionRecord], names: frozenset[str], adapter: str | None
) -> tuple[list[RecordRow], Skipped]:
    """The records of this model and adapter that hold ids."""
    with_ids = [
        r for r in records if r.prompt_token_ids is not None and r.kept.token_ids is not None and r.rejected.token_ids
    ]
    # An adapter is served under a name of its own, so a record may know it as the model.
    own = [
        r
        for r in with_ids
        if (r.adapter == adapter and r.model in names) or (adapter is not None and r.model == adapter)
    ]
    return [RecordRow(r) for r in own], Skipped(len(records) - len(with_ids), len(with_ids) - len(own))


class _Job(NamedTuple):
    """A request, and what is done with its result: place of the record, and the trigger (None: the rejected side)."""

    place: int
    trigger: Trigger | None
    span: Span | None
    request: Request


def complete(rows: Sequence[RecordRow], tools: Tools, plan: Plan, branches: int) -> list[Rollout]:
    """One rollout per record, in order. Raises EngineError."""
    jobs = [job for place, row in enumerate(rows) for job in _jobs(place, row.record, tools, plan, branches)]
    results = tools.generator.generate([job.request for job in jobs], plan.sampling) if jobs else []
    made: dict[int, list[tuple[_Job, Generated]]] = {}
    for job, result in zip(jobs, results, strict=True):
        made.setdefault(job.place, []).append((job, result))
    return [_rollout(row.record, made.get(place, []), tools, plan) for place, row in enumerate(rows)]


def rollout_of(record: InterventionRecord, vocabulary: Vocabulary) -> Rollout:
    """A record as it is, in the form of a completed one. It must hold ids."""
    own = _own_branch(record, vocabulary)
    return _assembled(record, _rejected_leg(record, None, vocabulary), [] if own is None else [own])


def _jobs(place: int, record: InterventionRecord, tools: Tools, plan: Plan, branches: int) -> list[_Job]:
    prompt, kept, rejected = _ids(record)
    budget = Budget(plan.max_tokens, tools.generator.context_length)
    seed = seed_of(plan.seed, record.id)
    jobs = []
    room = budget.remaining(len(prompt + kept + rejected), len(kept + rejected))
    if room and not _is_ended(rejected, tools.vocabulary):
        jobs.append(_Job(place, None, None, Request(prompt + kept + rejected, room, seed)))
    if _own_branch(record, tools.vocabulary) is not None:
        return jobs
    for trigger in _triggers(record, plan, branches, seed):
        span = _span(record, trigger, tools.vocabulary)
        room = budget.remaining(len(prompt + kept + span.token_ids), len(kept + span.token_ids))
        if room:
            prefix = prompt + kept + span.token_ids
            jobs.append(_Job(place, trigger, span, Request(prefix, room, seed_of(seed, trigger.id))))
    return jobs


def _triggers(record: InterventionRecord, plan: Plan, branches: int, seed: int) -> list[Trigger]:
    """The record's own trigger first, then others of the pool, as they would be drawn one after the other."""
    pool = list(plan.pool.triggers)
    rng = random.Random(seed_of(seed, "triggers"))
    if plan.table is None:
        rng.shuffle(pool)
    else:
        pool = plan.table.pool(record.category or UNKNOWN).order(rng)
    pool.sort(key=lambda trigger: trigger.id != record.trigger_id)
    return pool[:branches]


def _span(record: InterventionRecord, trigger: Trigger, vocabulary: Vocabulary) -> Span:
    if trigger.id == record.trigger_id and record.trigger.token_ids:
        text, ids = record.trigger.text, record.trigger.token_ids
    else:
        kept = record.kept.text
        text = trigger.text if not kept or kept[-1].isspace() else f" {trigger.text}"
        ids = vocabulary.encode(text)
    return Span(writer="trigger", channel=record.channel, text=text, token_ids=ids)


def _rollout(record: InterventionRecord, made: Sequence[tuple[_Job, Generated]], tools: Tools, plan: Plan) -> Rollout:
    prompt, kept, _ = _ids(record)
    rejected = next((result for job, result in made if job.trigger is None), None)
    branches = []
    for job, result in made:
        if job.trigger is not None and job.span is not None:
            before = prompt + kept + job.span.token_ids
            leg = _leg(
                before, result.token_ids, record.channel, tools.vocabulary, result.finish_reason, job.request.seed
            )
            step = Step(trigger_id=job.trigger.id, trigger=job.span, leg=leg)
            branches.append(_branch(step))
    own = _own_branch(record, tools.vocabulary)
    base = _rejected_leg(record, rejected, tools.vocabulary)
    return _assembled(record, base, [own] if own is not None else branches)


def _assembled(record: InterventionRecord, base: Leg, branches: list[Branch]) -> Rollout:
    prompt, _, _ = _ids(record)
    return Rollout(
        id=record.id,
        category=record.category,
        tenant=record.tenant,
        record_id=record.id,
        review_state=record.review_state,
        attempt=record.attempt,
        model=record.model,
        adapter=record.adapter,
        detector=f"onnx:{record.detector_hash}",
        policy_hash=record.policy_hash,
        messages=record.messages,
        tools=record.tools,
        prompt_token_ids=prompt,
        given=record.kept,
        samples=[Sample(base=base, branches=branches)],
    )


def _rejected_leg(record: InterventionRecord, more: Generated | None, vocabulary: Vocabulary) -> Leg:
    """The rejected side as the first leg, cut at its start."""
    prompt, kept, given = _ids(record)
    ids = given + (more.token_ids if more is not None else [])
    ended = _is_ended(given, vocabulary)
    finish = more.finish_reason if more is not None else "stop" if ended else None
    leg = _leg(prompt + kept, ids, record.channel, vocabulary, finish, None)
    sentences = segment(record.rejected.text)  # what the engine had sent after the cue is in the text, too
    cue_chars = sentences[0].end if sentences else len(record.rejected.text)
    text = leg_text(
        vocabulary.texts(prompt + kept, ids), vocabulary.opening(prompt + kept, record.channel), vocabulary.markers
    )
    cut = Cut(
        at=0,
        kept_chars=0,
        kept_tokens=0,
        cue_tokens=min(text.ids_covering(cue_chars), len(given)),
        text=record.rejected.text[:cue_chars],
        score=record.score,
        channel=record.channel,
    )
    return leg.model_copy(update={"cut": cut, "num_given": len(given)})


def _own_branch(record: InterventionRecord, vocabulary: Vocabulary) -> Branch | None:
    """What the live resume generated, where it ran to the model's own end."""
    completion = record.completion
    if record.trigger_id is None or completion is None or completion.outcome != "completed":
        return None
    ids, trigger_ids = completion.continuation.token_ids, record.trigger.token_ids
    if not ids or trigger_ids is None or completion.finish_reason != "stop":
        return None
    prompt, kept, _ = _ids(record)
    leg = _leg(prompt + kept + trigger_ids, ids, record.channel, vocabulary, "stop", None)
    span = Span(writer="trigger", channel=record.channel, text=record.trigger.text, token_ids=trigger_ids)
    step = Step(trigger_id=record.trigger_id, trigger=span, leg=leg.model_copy(update={"num_given": len(ids)}))
    return _branch(step)


def _leg(
    before: list[int], ids: list[int], channel: Channel, vocabulary: Vocabulary, finish: str | None, seed: int | None
) -> Leg:
    body, _ = vocabulary.split_end(ids, is_ended=finish == "stop")
    text = leg_text(vocabulary.texts(before, body), vocabulary.opening(before, channel), vocabulary.markers)
    return Leg.model_validate(
        {
            "token_ids": ids,
            "reasoning": text.of("reasoning"),
            "answer": text.of("answer"),
            "finish_reason": finish,
            "seed": seed,
        }
    )


def _branch(step: Step) -> Branch:
    assert step.leg is not None, "a completed side has a leg"
    return Branch(
        steps=[step],
        outcome="completed",
        finish_reason=step.leg.finish_reason or "stop",
        spans=[step.trigger],
    )


def _is_ended(ids: list[int], vocabulary: Vocabulary) -> bool:
    return bool(ids) and ids[-1] in vocabulary.end_ids


def _ids(record: InterventionRecord) -> tuple[list[int], list[int], list[int]]:
    """(prompt, kept, rejected) ids of a record that has them."""
    return record.prompt_token_ids or [], record.kept.token_ids or [], record.rejected.token_ids or []
