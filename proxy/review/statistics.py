"""Counts over reviews: how reviewers agree, and how much is left to do. SQL adds up; nothing is read row by row."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, func, select

from proxy.log.rows import microseconds
from proxy.review.people import people
from proxy.review.resolve import Agreement, agreement
from proxy.review.tables import review_subjects, reviews, samples


@dataclass(frozen=True, slots=True)
class Pairwise:
    """All pairs of reviewers. `disputed`: subjects that wait for a tie-break."""

    pairs: list[Agreement]
    subjects: int
    agreed: int
    disputed: int


def agreements(connection: Connection, since: datetime | None = None, tenant: str | None = None) -> Pairwise:
    """Over subjects that two reviewers decided; tie-breaks are left out, for whoever breaks a tie has seen it."""
    first, second = reviews.alias("first"), reviews.alias("second")
    query = (
        select(first.c.reviewer, second.c.reviewer, first.c.decision, second.c.decision, func.count())
        .join(second, (first.c.subject_id == second.c.subject_id) & (first.c.reviewer < second.c.reviewer))
        .where(first.c.is_final.is_(False), second.c.is_final.is_(False))
        .group_by(first.c.reviewer, second.c.reviewer, first.c.decision, second.c.decision)
    )
    disputed = select(func.count()).where(review_subjects.c.is_disputed)
    if since is not None:
        query = query.where(first.c.decided_us >= microseconds(since), second.c.decided_us >= microseconds(since))
    if tenant is not None:
        query = query.join(review_subjects, review_subjects.c.id == first.c.subject_id)
        query = query.where(review_subjects.c.tenant == tenant)
        disputed = disputed.where(review_subjects.c.tenant == tenant)
    counts: dict[tuple[str, str], dict[tuple[str, str], int]] = {}
    for one, other, its, others, count in connection.execute(query):
        counts.setdefault((one, other), {})[its, others] = count
    who = people(connection, {reviewer for pair in counts for reviewer in pair})
    counts = {pair: by for pair, by in counts.items() if who[pair[0]] != who[pair[1]]}
    pairs = [agreement(one, other, by_decision) for (one, other), by_decision in sorted(counts.items())]
    return Pairwise(
        pairs,
        sum(pair.subjects for pair in pairs),
        sum(pair.agreed for pair in pairs),
        connection.execute(disputed).scalar_one(),
    )


def sample_counts(connection: Connection, tenant: str | None = None) -> dict[str, int]:
    """Samples by state."""
    query = select(samples.c.state, func.count()).group_by(samples.c.state)
    if tenant is not None:
        query = query.where(samples.c.tenant == tenant)
    return {row[0]: row[1] for row in connection.execute(query)}
