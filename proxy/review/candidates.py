"""Which subjects the queue looks at: a bounded window out of a million, drawn by indexes alone.

The window is the union of a few ends of the log: those nearest to the threshold on both sides, the newest, those that
wait the longest, those that a second judge or reviewers disagree about. What is decided leaves it, and others come in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, select

from proxy.log.rows import moment
from proxy.log.tables import intervention_texts, interventions
from proxy.review.decisions import FIRST_VERSION
from proxy.review.resolve import UNREVIEWED
from proxy.review.tables import review_subjects, reviews, sample_texts, samples
from steer.review import SubjectKind

# Rows of one end. Ends of one kind of intervention together: some hundreds of rows, read in milliseconds.
NEAR, END, DISAGREEING = 150, 50, 100
# Reviewed subjects that a topic is compared with: the latest.
REVIEWED = 200

_INTERVENTION = [
    interventions.c[name] for name in ("id", "request_id", "tenant", "created_us", "score", "model", "mode", "category")
]
_SAMPLE = [samples.c[name] for name in ("id", "request_id", "tenant", "created_us", "model", "mode")]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A subject that waits for a decision, without its text. `score` of a sample: its highest."""

    id: str
    kind: SubjectKind
    request_id: str
    tenant: str
    created_at: datetime
    score: float
    model: str
    mode: str
    category: str | None
    version: int
    is_disputed: bool
    second_disagrees: bool


def candidates(
    connection: Connection, reviewer: str, *, threshold: float, kind: SubjectKind | None, tenant: str | None
) -> list[Candidate]:
    """The window, without what `reviewer` has already decided; each subject once."""
    rows: dict[str, tuple[SubjectKind, dict[str, Any]]] = {}
    for query in _windows(threshold, kind, tenant):
        for row in connection.execute(query).mappings():
            found: SubjectKind = "sample" if "category" not in row else "intervention"
            rows.setdefault(row["id"], (found, dict(row)))
    rows = {id: item for id, item in rows.items() if item[1].pop("outcome", "") != "open"}  # its end is not known yet
    spoken = _spoken(connection, list(rows))
    decided = set(_decided(connection, reviewer, list(rows)))
    return [_candidate(found, row, spoken.get(id)) for id, (found, row) in rows.items() if id not in decided]


def _windows(threshold: float, kind: SubjectKind | None, tenant: str | None) -> list[Select[Any]]:
    halts = [] if kind == "sample" else _halts(threshold)
    finds = [] if kind == "intervention" else _finds()
    if tenant is not None:
        halts = [query.where(interventions.c.tenant == tenant) for query in halts]
        finds = [query.where(samples.c.tenant == tenant) for query in finds]
    return halts + finds


def _halts(threshold: float) -> list[Select[Any]]:
    score, created = interventions.c.score, interventions.c.created_us
    every = select(*_INTERVENTION, interventions.c.outcome)
    waiting = every.where(interventions.c.review_state == UNREVIEWED)
    found = [
        waiting.where(score >= threshold).order_by(score).limit(NEAR),
        waiting.where(score < threshold).order_by(score.desc()).limit(END),
        waiting.order_by(created.desc()).limit(END),
        waiting.order_by(created).limit(END),
    ]
    for is_it, last in _disagreeing():
        found.append(every.join(review_subjects).where(*is_it).order_by(last).limit(DISAGREEING))
    return found


def _finds() -> list[Select[Any]]:
    """A second judge disagrees about all of them: that is what a find is."""
    finds = select(*_SAMPLE, samples.c.max_score.label("score")).where(samples.c.state == UNREVIEWED)
    created = samples.c.created_us
    disputed = select(*_SAMPLE, samples.c.max_score.label("score")).join(review_subjects)
    disputed = disputed.where(review_subjects.c.state == UNREVIEWED, review_subjects.c.is_disputed.is_(True))
    return [finds.order_by(created.desc()).limit(NEAR), finds.order_by(created).limit(END), disputed.limit(DISAGREEING)]


def _disagreeing() -> Iterable[tuple[Sequence[ColumnElement[bool]], ColumnElement[Any]]]:
    last = review_subjects.c.changed_us.desc()
    for flag in (review_subjects.c.second_disagrees, review_subjects.c.is_disputed):
        yield (review_subjects.c.state == UNREVIEWED, flag.is_(True)), last


def _spoken(connection: Connection, ids: list[str]) -> dict[str, Any]:
    """What has been said of those of which something has."""
    columns = review_subjects.c
    query = select(columns.id, columns.version, columns.is_disputed, columns.second_disagrees)
    return {row.id: row for row in connection.execute(query.where(columns.id.in_(ids)))}


def _decided(connection: Connection, reviewer: str, ids: list[str]) -> Iterable[str]:
    query = select(reviews.c.subject_id).where(reviews.c.reviewer == reviewer, reviews.c.subject_id.in_(ids))
    return connection.execute(query).scalars()


def _candidate(kind: SubjectKind, row: dict[str, Any], spoken: Any) -> Candidate:
    return Candidate(
        kind=kind,
        category=row.pop("category", None),
        created_at=moment(row.pop("created_us")),
        version=FIRST_VERSION if spoken is None else spoken.version,
        is_disputed=spoken is not None and spoken.is_disputed,
        second_disagrees=spoken is not None and spoken.second_disagrees,
        **row,
    )


def reviewed_lately(connection: Connection, until_us: int) -> list[str]:
    """Ids of what was decided last, before `until_us`."""
    query = select(reviews.c.subject_id).where(reviews.c.decided_us < until_us)
    query = query.order_by(reviews.c.decided_us.desc()).limit(REVIEWED)
    return list(dict.fromkeys(connection.execute(query).scalars()))


def text_bodies(connection: Connection, ids: list[str]) -> dict[str, str]:
    """Bodies that hold the messages, as they are stored, by subject; those without text are left out."""
    halts = select(intervention_texts.c.intervention_id, intervention_texts.c.body).where(
        intervention_texts.c.part == "halt", intervention_texts.c.intervention_id.in_(ids)
    )
    sampled = select(sample_texts.c.sample_id, sample_texts.c.body).where(sample_texts.c.sample_id.in_(ids))
    return {row[0]: row[1] for query in (halts, sampled) for row in connection.execute(query)}
