"""Brings records and foreign traces into a log. A record that is there already is left as it is.

An imported record that was open is `interrupted`: nobody will complete it. Of a foreign trace (what `steer detect`
reads) the first cue becomes a record as monitor mode makes one; a trace without a cue becomes none.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio
from pydantic import ValidationError
from sqlalchemy import select

from detector.artifact import Artifact
from detector.classifier import CueClassifier
from detector.detect import Trace, detect, read_traces, whole_text
from proxy.log.errors import ImportFailed, LogError
from proxy.log.store import InterventionLog
from proxy.log.tables import interventions
from steer.policy import Policy
from steer.record import SCHEMA_VERSION, Completion, InterventionRecord, TextSpan, Timings

# Records that share a commit.
_TOGETHER = 128
_NO_TIME = Timings(halted_ms=0)


def read_records(path: Path) -> Iterator[InterventionRecord]:
    """Records of a JSONL export, one by one. Raises ImportFailed naming the line, InputError, OSError."""
    with whole_text(path) as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _record(line, f"{path}, line {number}")


@dataclass(frozen=True, slots=True)
class Foreign:
    """How the traces of a file are judged, and whose they are."""

    artifact: Artifact
    policy: Policy
    tenant: str
    model: str


def read_foreign(path: Path, foreign: Foreign) -> Iterator[InterventionRecord | None]:
    """One item a trace: its record, None where it has no cue. Raises InputError naming the line."""
    classifier, policy = CueClassifier(foreign.artifact), foreign.policy
    with whole_text(path) as lines:
        for trace in read_traces(lines, path):
            cue = detect(trace, classifier, policy.threshold, policy.max_segment_chars)["first_cue"]
            yield None if cue is None else _observed(trace, int(cue["start"]), cue["score"], foreign)


@dataclass(slots=True)
class Taken:
    """What became of a file's records: `purged` stay out, since a purge covers them; `reset` lost a decision."""

    records: int = 0
    without_cue: int = 0
    purged: int = 0
    reset: int = 0


async def take_in(
    log: InterventionLog, records: Iterable[InterventionRecord | None], *, importer: Mapping[str, str] | None = None
) -> Taken:
    """Insert them. What comes before a line that is wrong stays.

    A decision of reviewers whom this log does not know is taken only with `importer`, who answers for it in the audit
    trail; else the record is unreviewed. Raises LogError, and what `records` raises.
    """
    taken = Taken()
    waiting: list[InterventionRecord] = []
    errors: list[LogError] = []

    async def insert(record: InterventionRecord) -> None:
        try:
            await log.insert(record, importer=None if record.review_state == "unreviewed" else importer)
        except LogError as error:  # raised below: a task group would wrap it
            errors.append(error)

    async def write() -> None:
        async with anyio.create_task_group() as tasks:
            for record in waiting:
                tasks.start_soon(insert, record)
        if errors:
            raise errors[0]
        there = await _known(log, [record.id for record in waiting])
        taken.records += len(there)
        taken.purged += len(waiting) - len(there)
        waiting.clear()

    try:
        for record in records:
            if record is None:
                taken.without_cue += 1
                continue
            if importer is None and record.review_state != "unreviewed":
                taken.reset += 1
                record = record.model_copy(update={"review_state": "unreviewed"})
            waiting.append(record)
            if len(waiting) >= _TOGETHER:
                await write()
    finally:
        await write()
    return taken


async def _known(log: InterventionLog, ids: list[str]) -> set[str]:
    query = select(interventions.c.id).where(interventions.c.id.in_(ids))
    return set(await log.read(lambda connection: connection.execute(query).scalars().all()))


def _observed(trace: Trace, start: int, score: float, foreign: Foreign) -> InterventionRecord:
    # The same trace gives the same id, so that a file may be imported twice.
    identity = hashlib.sha256(f"{trace.id}\x1f{start}\x1f{trace.reasoning}".encode(errors="replace")).hexdigest()
    record = InterventionRecord(
        id=identity[:32],
        request_id=trace.id,
        attempt=0,
        tenant=foreign.tenant,
        created_at=datetime.now(UTC),
        mode="monitor",
        model=foreign.model,
        policy_hash=foreign.policy.digest(),
        detector_hash=foreign.artifact.digest,
        trigger_id=None,
        channel="reasoning",
        score=score,
        messages=[dict(message) for message in trace.messages],
        kept=TextSpan(text=trace.reasoning[:start]),
        rejected=TextSpan(text=trace.reasoning[start:]),
        timings=_NO_TIME,
    )
    return record.completed(Completion(outcome="observed", timings=_NO_TIME))


def _record(line: str, where: str) -> InterventionRecord:
    try:
        record = InterventionRecord.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "record"
        raise ImportFailed(f"{where}: {field}: {first['msg']}; give the JSONL that `steer log export` writes") from None
    if record.schema_version > SCHEMA_VERSION:
        raise ImportFailed(f"{where}: schema {record.schema_version} is newer than this program; update it")
    return record.model_copy(update={"outcome": "interrupted"}) if record.outcome == "open" else record
