"""What people say of a subject, written down: decisions, notes, wordings for a better trigger. One transaction each.

A subject is locked while it changes, its version checked and counted up, its state resolved anew from what all
reviewers say, and the audit trail told. `interventions.review_state` and `samples.state` follow at once.
"""

import uuid
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, func, literal, select

from proxy.log.rows import now_us
from proxy.log.sql import insert_once
from proxy.log.tables import interventions
from proxy.log.texts import TextKeeper
from proxy.review.audit import Actor, Values, write_entry
from proxy.review.errors import StaleVersion, UnknownSubject, WrongDecision
from proxy.review.people import people
from proxy.review.resolve import DECISIONS, UNREVIEWED, Opinion, Resolution, resolve
from proxy.review.tables import review_subjects, review_texts, reviews, samples, second_verdicts
from steer.review import SubjectKind

# A subject that nobody has spoken of yet.
FIRST_VERSION = 0
# (shortest, longest): notes are remarks, not documents; a wording is what a trigger may be (`steer.triggers`).
NOTE_CHARS, TRIGGER_CHARS = (1, 4000), (8, 500)
# A sample becomes a subject when it is judged or reviewed; before, it has one of these states.
UNJUDGED, CLEAR = "unjudged", "clear"


@dataclass(frozen=True, slots=True)
class Saying:
    """What one person says of one subject; parts that are None are not said.

    `decision`: as in `resolve`, or "unreviewed", which takes one's own back. `is_final`: a tie-break. `segment`: of a
    sample, which segment is the cue. `version`: what was looked at.
    """

    subject_id: str
    version: int
    decision: str | None = None
    is_final: bool = False
    segment: int | None = None
    note: str | None = None
    trigger: str | None = None
    trigger_kind: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What came of it."""

    version: int
    state: str
    is_disputed: bool
    text_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Subject:
    """An intervention or a sample, as far as review knows it."""

    id: str
    kind: SubjectKind
    tenant: str
    state: str
    version: int
    segments: int = 0


def find_subject(connection: Connection, subject_id: str, tenant: str | None = None, *, locks: bool = False) -> Subject:
    """Raises UnknownSubject; also where it is another tenant's than `tenant` (None: all are seen). `locks`: nobody
    else changes it in this transaction's time."""
    row, kind = _find(connection, subject_id, locks=locks)
    if row is None or (tenant is not None and row.tenant != tenant):
        raise UnknownSubject(f"no intervention or sample {subject_id}: `steer review list` shows what there is")
    known = connection.execute(select(review_subjects.c.version).where(review_subjects.c.id == subject_id)).first()
    version = FIRST_VERSION if known is None else known.version
    return Subject(subject_id, kind, row.tenant, row.state, version, row.segments)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the log reviews. `needed`: reviewers before a state is set. `tenant`: the only one that is seen; None: all.
    `keeper`: how text is kept."""

    keeper: TextKeeper
    needed: int = 1
    tenant: str | None = None


def say(connection: Connection, actor: Actor, saying: Saying, rules: Rules) -> Said:
    """Write it down. Raises ReviewError; nothing is written then."""
    subject = find_subject(connection, saying.subject_id, rules.tenant, locks=True)
    if subject.version != saying.version:
        raise StaleVersion(subject.id, subject.version)
    _check(subject, saying)
    ensure_subject(connection, subject)
    text_ids = _put_texts(connection, actor, subject, saying, rules.keeper)
    if saying.decision is None:
        is_disputed = _touch(connection, subject)
        return Said(subject.version + 1, subject.state, is_disputed, text_ids)
    _put_review(connection, actor, subject, saying)
    settled = resolve(_opinions(connection, subject.id), rules.needed)
    if settled.state == UNREVIEWED and subject.kind == "sample":
        settled = replace(settled, state=_without_reviews(connection, subject))
    settle(connection, subject, settled)
    return Said(subject.version + 1, settled.state, settled.is_disputed, text_ids)


def ensure_subject(connection: Connection, subject: Subject) -> None:
    """The row that reviews, texts and verdicts hang on."""
    values = {
        "id": subject.id, "kind": subject.kind, "tenant": subject.tenant, "version": subject.version,
        "intervention_id": subject.id if subject.kind == "intervention" else None,
        "sample_id": subject.id if subject.kind == "sample" else None,
        "state": subject.state, "is_disputed": False, "second_disagrees": False, "changed_us": now_us(),
    }  # fmt: skip
    insert_once(connection, review_subjects, values)


def settle(connection: Connection, subject: Subject, settled: Resolution) -> None:
    """One version on, in this state; the intervention or sample follows."""
    row = review_subjects.update().where(review_subjects.c.id == subject.id)
    values = {"version": subject.version + 1, "state": settled.state, "is_disputed": settled.is_disputed}
    connection.execute(row.values(**values, changed_us=now_us()))
    if settled.state == subject.state:
        return
    if subject.kind == "intervention":
        update = interventions.update().where(interventions.c.id == subject.id)
        connection.execute(update.values(review_state=settled.state))
    else:
        connection.execute(samples.update().where(samples.c.id == subject.id).values(state=settled.state))


def _find(connection: Connection, subject_id: str, *, locks: bool) -> tuple[Row[Any, Any, Any] | None, SubjectKind]:
    """(tenant, state, segments). SQLite knows no locks of rows: its writer holds the whole database."""
    halted = select(interventions.c.tenant, interventions.c.review_state.label("state"), literal(0).label("segments"))
    halted = halted.where(interventions.c.id == subject_id)
    sampled = select(samples.c.tenant, samples.c.state, samples.c.segments).where(samples.c.id == subject_id)
    found = connection.execute(halted.with_for_update() if locks else halted).first()
    if found is not None:
        return found, "intervention"
    return connection.execute(sampled.with_for_update() if locks else sampled).first(), "sample"


def _check(subject: Subject, saying: Saying) -> None:
    allowed = DECISIONS[subject.kind]
    if saying.decision is not None and saying.decision not in {*allowed, UNREVIEWED}:
        raise WrongDecision(
            f"decision: {saying.decision} can't be said of this {subject.kind}; say {' or '.join(sorted(allowed))}, or "
            f"{UNREVIEWED} to take your own decision back"
        )
    if saying.segment is not None and (subject.kind != "sample" or saying.decision != "confirmed"):
        raise WrongDecision("segment: only a sample that is confirmed as a miss has one: leave it out")
    if saying.segment is not None and not 0 <= saying.segment < subject.segments:
        raise WrongDecision(f"segment: {subject.id} has segments 0 to {subject.segments - 1}")
    for name, text, limits in (("note", saying.note, NOTE_CHARS), ("trigger", saying.trigger, TRIGGER_CHARS)):
        if text is not None and not limits[0] <= len(text) <= limits[1]:
            raise WrongDecision(f"{name}: between {limits[0]} and {limits[1]} characters, not {len(text)}")
        if text is not None and not all(char.isprintable() or char in "\n\t" for char in text):
            raise WrongDecision(f"{name}: control characters can't be stored")
    if saying.is_final and saying.decision in (None, UNREVIEWED):
        raise WrongDecision("final: only a decision can be; say which")


def _put_review(connection: Connection, actor: Actor, subject: Subject, saying: Saying) -> None:
    own = (reviews.c.subject_id == subject.id) & (reviews.c.reviewer == actor.id)
    before = connection.execute(select(reviews.c.decision, reviews.c.is_final, reviews.c.segment).where(own)).first()
    connection.execute(reviews.delete().where(own))
    after: Values | None = None
    if saying.decision != UNREVIEWED:
        after = {"decision": saying.decision, "is_final": saying.is_final, "segment": saying.segment}
        who = {"subject_id": subject.id, "reviewer": actor.id, "decided_us": now_us()}
        connection.execute(reviews.insert(), {**who, **after})
    told = None if before is None else {name: getattr(before, name) for name in ("decision", "is_final", "segment")}
    action = "review.tie_break" if saying.is_final else "review.decide"
    write_entry(connection, actor, action, subject.id, tenant=subject.tenant, before=told, after=after)


def _put_texts(
    connection: Connection, actor: Actor, subject: Subject, saying: Saying, keeper: TextKeeper
) -> tuple[str, ...]:
    """Notes and proposals; the trail tells of their ids and lengths."""
    made = []
    for kind, state, body in (("note", "noted", saying.note), ("trigger", "proposed", saying.trigger)):
        if body is None:
            continue
        values = {
            "id": uuid.uuid4().hex, "subject_id": subject.id, "author": actor.id, "kind": kind, "state": state,
            "trigger_kind": saying.trigger_kind if kind == "trigger" else None, "created_us": now_us(),
            "body": keeper.seal(_redacted(body, keeper)),
        }  # fmt: skip
        connection.execute(review_texts.insert(), values)
        after: Values = {"id": str(values["id"]), "chars": len(body)}
        action = "review.note" if kind == "note" else "review.propose_trigger"
        write_entry(connection, actor, action, subject.id, tenant=subject.tenant, after=after)
        made.append(str(values["id"]))
    return tuple(made)


def _redacted(text: str, keeper: TextKeeper) -> str:
    """A note may quote what it is about."""
    try:
        return str(keeper.cleaned(text))
    except Exception as error:  # noqa: BLE001 - log.redact is somebody else's code
        raise WrongDecision(f"log.redact failed ({type(error).__name__}): nothing was written; mend it first") from None


def _opinions(connection: Connection, subject_id: str) -> list[Opinion]:
    """One of each person, their last; and each person's last tie-break."""
    query = select(reviews.c.reviewer, reviews.c.decision, reviews.c.is_final, reviews.c.decided_us)
    rows = connection.execute(query.where(reviews.c.subject_id == subject_id).order_by(reviews.c.decided_us)).all()
    who = people(connection, [row.reviewer for row in rows]) if len(rows) > 1 else {}
    last = {(who.get(row.reviewer), row.is_final): Opinion(row.decision, row.is_final, row.decided_us) for row in rows}
    return list(last.values())


def _touch(connection: Connection, subject: Subject) -> bool:
    """One version on, nothing else changed. Whether it is disputed."""
    row = review_subjects.c.id == subject.id
    connection.execute(review_subjects.update().where(row).values(version=subject.version + 1, changed_us=now_us()))
    return bool(connection.execute(select(review_subjects.c.is_disputed).where(row)).scalar_one())


def _without_reviews(connection: Connection, subject: Subject) -> str:
    """What a sample is where no review sets its state."""
    query = select(func.count(), func.count().filter(second_verdicts.c.disagrees))
    judged, found = connection.execute(query.where(second_verdicts.c.subject_id == subject.id)).one()
    return UNREVIEWED if found else CLEAR if judged else UNJUDGED
