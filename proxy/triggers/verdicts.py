"""An independent judge on what came after triggers: what it has not seen goes out, its word comes back.

The detector alone would grade its own work: an outcome is "completed" because it found no further cue. Texts go out as
`steer.review.JudgedTrace`, verdicts come back as `SecondVerdict`, as for `steer review judge`; here the trace is the
whole turn, trigger and continuation included, of first halts in the reasoning that ended by themselves.
"""

from collections.abc import Iterable

from sqlalchemy import Connection, delete, exists, select

from proxy.log.reader import LogReader
from proxy.log.rows import now_us
from proxy.log.tables import interventions
from proxy.review.audit import Actor, write_entry
from proxy.review.verdicts import opted_out
from proxy.triggers.tables import trigger_verdicts
from steer.record import InterventionRecord
from steer.review import JudgedTrace, SecondVerdict
from steer.trigger_evidence import is_good


def unjudged(connection: Connection, judge: str, limit: int) -> list[str]:
    """Ids of records whose aftermath this judge has not seen, the newest first."""
    own = exists().where(trigger_verdicts.c.intervention_id == interventions.c.id, trigger_verdicts.c.judge == judge)
    query = (
        select(interventions.c.id)
        .where(
            ~own,
            interventions.c.attempt == 0,
            interventions.c.choice == 0,
            interventions.c.trigger_id.is_not(None),
            interventions.c.channel == "reasoning",
            interventions.c.outcome == "completed",
            interventions.c.stored_text != "none",
            interventions.c.tenant.not_in(opted_out()),
        )
        .order_by(interventions.c.created_us.desc(), interventions.c.id)
        .limit(limit)
    )
    return list(connection.execute(query).scalars())


async def traces(reader: LogReader, ids: Iterable[str]) -> list[JudgedTrace]:
    """The turns, as the client saw them. Raises LogError."""
    found = [await reader.get(id) for id in ids]
    return [trace_of(record) for record in found if record.messages and record.completion is not None]


def trace_of(record: InterventionRecord) -> JudgedTrace:
    """The whole turn: kept, trigger, what followed, and the answer."""
    assert record.completion is not None, "what has not ended can't be judged"
    return JudgedTrace(
        id=record.id,
        kind="intervention",
        tenant=record.tenant,
        model=record.model,
        detector_hash=record.detector_hash,
        created_at=record.created_at,
        max_score=record.score,
        messages=record.messages,
        reasoning=record.kept.text + record.trigger.text + record.completion.continuation.text,
        answer=record.completion.answer,
    )


def import_verdicts(connection: Connection, actor: Actor, verdicts: Iterable[SecondVerdict]) -> dict[str, int]:
    """Write them down; a judge that speaks again is taken at its last word. Returns counts by what was said."""
    counts = {"good": 0, "bad": 0, "untold": 0, "unknown": 0}
    judges = set()
    for verdict in sorted(verdicts, key=lambda verdict: verdict.id):  # one order for all: no two imports can deadlock
        here = connection.execute(select(interventions.c.id).where(interventions.c.id == verdict.id)).first()
        if here is None:
            counts["unknown"] += 1
            continue
        good = is_good(**verdict.model_dump(exclude={"id", "kind", "judge"}))
        own = (trigger_verdicts.c.intervention_id == verdict.id) & (trigger_verdicts.c.judge == verdict.judge)
        connection.execute(delete(trigger_verdicts).where(own))
        values = {"intervention_id": verdict.id, "judge": verdict.judge, "is_success": good, "created_us": now_us()}
        connection.execute(trigger_verdicts.insert(), values)
        counts["untold" if good is None else "good" if good else "bad"] += 1
        judges.add(verdict.judge)
    write_entry(connection, actor, "trigger.verdicts", "import", after=counts | {"judge": ", ".join(sorted(judges))})
    return counts
