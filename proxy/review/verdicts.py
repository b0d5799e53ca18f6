"""Second judges' verdicts: what they have not judged yet, and their word written down.

A judge is asked about samples (what nothing halted) and about interventions that nobody has reviewed. A sample that it
finds unsafe is listed as a miss; an intervention that it finds harmless goes up in the queue. Verdicts decide nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Select, Table, exists, func, select

from proxy.access.tables import tenants
from proxy.log.rows import microseconds, now_us
from proxy.log.tables import interventions
from proxy.review.audit import Actor, Values, write_entry
from proxy.review.decisions import CLEAR, UNJUDGED, Subject, ensure_subject, find_subject
from proxy.review.errors import UnknownSubject
from proxy.review.resolve import UNREVIEWED
from proxy.review.tables import review_subjects, samples, second_verdicts
from steer.review import SecondVerdict, SubjectKind

# In one transaction: a database that others share is held for milliseconds.
MAX_VERDICTS = 500


@dataclass(frozen=True, slots=True)
class Imported:
    """`unknown`: of subjects that are gone, or were never here. `finds`: samples that are now listed as misses."""

    written: int = 0
    unknown: int = 0
    finds: int = 0
    disagreements: int = 0


def unjudged(
    connection: Connection,
    kind: SubjectKind,
    judge: str | None,
    *,
    after: str | None,
    limit: int,
    since: datetime | None = None,
    tenant: str | None = None,
) -> list[str]:
    """Ids without this judge's verdict (None: without anybody's), in order of id; `after` goes on behind a page.

    None of tenants that opted out: a judge may be somebody else's, and what it finds is for training.
    """
    table: Table = samples if kind == "sample" else interventions
    judged = exists().where(second_verdicts.c.subject_id == table.c.id)
    if judge is not None:
        judged = judged.where(second_verdicts.c.judge == judge)
    query = select(table.c.id).where(~judged, table.c.tenant.not_in(opted_out())).order_by(table.c.id).limit(limit)
    if since is not None:
        query = query.where(table.c.created_us >= microseconds(since))
    if kind == "intervention":
        query = query.where(table.c.review_state == UNREVIEWED, table.c.outcome != "open")
    if after is not None:
        query = query.where(table.c.id > after)
    if tenant is not None:
        query = query.where(table.c.tenant == tenant)
    return list(connection.execute(query).scalars())


def opted_out() -> Select[tuple[str]]:
    """Tenants whose traffic is not trained on."""
    return select(tenants.c.name).where(tenants.c.may_train.is_(False))


def import_verdicts(
    connection: Connection, actor: Actor, verdicts: Sequence[SecondVerdict], tenant: str | None = None
) -> Imported:
    """Write them down; a judge that speaks again of one subject is taken at its last word. `tenant`: the only one whose
    subjects are known; None: all."""
    written = unknown = finds = disagreements = 0
    for verdict in sorted(verdicts, key=lambda verdict: verdict.id):  # one order for all: no two imports can deadlock
        try:
            subject = find_subject(connection, verdict.id, tenant, locks=True)
        except UnknownSubject:
            unknown += 1
            continue
        if subject.kind != verdict.kind:
            unknown += 1
            continue
        ensure_subject(connection, subject)
        disagrees = _put(connection, verdict)
        state = _state_after(subject, disagrees=disagrees)
        finds += subject.kind == "sample" and disagrees and subject.state in (UNJUDGED, CLEAR)
        disagreements += disagrees
        written += 1
        _move(connection, subject, state, disagrees=disagrees)
    if written:
        after: Values = {"written": written, "finds": finds, "disagreements": disagreements, "judge": verdicts[0].judge}
        write_entry(connection, actor, "review.second_verdicts", "import", tenant=tenant, after=after)
    return Imported(written, unknown, finds, disagreements)


def _put(connection: Connection, verdict: SecondVerdict) -> bool:
    """True where this judge, or another one, contradicts the detector."""
    own = (second_verdicts.c.subject_id == verdict.id) & (second_verdicts.c.judge == verdict.judge)
    connection.execute(second_verdicts.delete().where(own))
    said = verdict.model_dump(exclude={"id", "kind"})
    values = said | {"subject_id": verdict.id, "disagrees": verdict.disagrees, "created_us": now_us()}
    connection.execute(second_verdicts.insert(), values)
    contradicting = select(func.count()).where(second_verdicts.c.subject_id == verdict.id, second_verdicts.c.disagrees)
    return bool(connection.execute(contradicting).scalar_one())


def _state_after(subject: Subject, *, disagrees: bool) -> str:
    """A judge moves only what no review has settled."""
    if subject.kind == "intervention" or subject.state not in (UNJUDGED, CLEAR, UNREVIEWED):
        return subject.state
    return UNREVIEWED if disagrees else CLEAR


def _move(connection: Connection, subject: Subject, state: str, *, disagrees: bool) -> None:
    row = review_subjects.update().where(review_subjects.c.id == subject.id)
    values = {"version": subject.version + 1, "state": state, "second_disagrees": disagrees, "changed_us": now_us()}
    connection.execute(row.values(**values))
    if subject.kind == "sample" and state != subject.state:
        connection.execute(samples.update().where(samples.c.id == subject.id).values(state=state))
