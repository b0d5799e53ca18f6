"""Evidence about triggers out of the log: outcomes with what reviewers and judges say of them, counted by kind.

Counting is the database's: however many interventions a window holds, what comes here is a row a kind and day. Tenants
that opted out of training are left out: to learn from somebody's traffic is to train on it.
"""

from sqlalchemy import Connection, Select, case, func, select

from proxy.log.counters import DAY_US
from proxy.log.tables import interventions
from proxy.review.tables import second_verdicts
from proxy.review.verdicts import opted_out
from proxy.triggers.tables import trigger_verdicts
from steer.trigger_evidence import EvidenceRules, Followed, Tally

_DECIDED = ("completed", "halted_again", "refused")


def tallies(connection: Connection, today: int, rules: EvidenceRules) -> list[Tally]:
    """Of the days before and up to `today` that may still count."""
    since_us = (today - rules.window_days) * DAY_US
    cases = _cases(since_us).subquery()
    query = select(*cases.c, func.count()).group_by(*cases.c)
    found = []
    for (
        day,
        tenant,
        category,
        trigger_id,
        outcome,
        review,
        next_review,
        contradicted,
        judged,
        count,
    ) in connection.execute(query):
        followed = Followed(outcome, review, next_review, _truth(contradicted), _truth(judged))
        found.append(Tally(day, tenant, category, trigger_id, followed, count))
    return found


def _cases(since_us: int) -> Select[tuple[object, ...]]:
    """One row a first halt (rule 1 of `steer.trigger_evidence`), joined with the halt after it."""
    halt, after = interventions.alias("halt"), interventions.alias("after")
    contradicted = (
        select(func.max(case((second_verdicts.c.disagrees, 1), else_=0)))
        .where(second_verdicts.c.subject_id == after.c.id)
        .scalar_subquery()
    )
    judged = (
        select(func.min(case((trigger_verdicts.c.is_success, 1), else_=0)))
        .where(trigger_verdicts.c.intervention_id == halt.c.id, trigger_verdicts.c.is_success.is_not(None))
        .scalar_subquery()
    )
    follows = (after.c.request_id == halt.c.request_id) & (after.c.choice == halt.c.choice) & (after.c.attempt == 1)
    return (
        select(
            (halt.c.created_us // DAY_US).label("day"),
            halt.c.tenant,
            halt.c.category,
            halt.c.trigger_id,
            halt.c.outcome,
            halt.c.review_state,
            after.c.review_state.label("next_review"),
            contradicted.label("contradicted"),
            judged.label("judged"),
        )
        .select_from(halt.outerjoin(after, follows))
        .where(
            halt.c.attempt == 0,
            halt.c.choice == 0,
            halt.c.trigger_id.is_not(None),
            halt.c.created_us >= since_us,
            halt.c.outcome.in_(_DECIDED),
            halt.c.tenant.not_in(opted_out()),
        )
    )


def _truth(value: int | None) -> bool | None:
    return None if value is None else bool(value)
