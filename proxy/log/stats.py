"""Counts over the log. Questions of columns and time are answered from counts and cells by day, others by rows."""

from collections import Counter
from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, func, select

from proxy.log import cells
from proxy.log.counters import Counts, scope_of, split, whole_days
from proxy.log.query import Filters, Stats
from proxy.log.rows import moment
from proxy.log.tables import interventions, requests
from proxy.log.where import conditions

_KINDS = {"outcome": "outcome", "mode": "mode", "category": "category", "trigger": "trigger_id",
          "review_state": "review_state"}  # fmt: skip


def stats_of(connection: Connection, filters: Filters) -> Stats:
    """All counts."""
    counts: Counts = Counter()
    # Requests are filtered by what they have: tenant, model, mode and time. An outcome means another thing there.
    asked = Filters(
        tenant=filters.tenant, model=filters.model, mode=filters.mode, since=filters.since, until=filters.until
    )
    days, scope, asked_scope = split(filters), scope_of(filters), scope_of(asked)
    if scope is not None:
        counts.update(whole_days(connection, filters, scope, days))
    elif cells.answers(filters):
        counts.update(cells.interventions_of(connection, filters, days))
    is_counted = scope is not None or cells.answers(filters)
    for part in days.edges if is_counted else [filters]:
        counts.update(_rows(connection, part))
    if asked_scope is None:
        counts.update(cells.requests_of(connection, asked, days))
    elif asked_scope != scope:
        known = whole_days(connection, asked, asked_scope, days)
        counts.update({key: n for key, n in known.items() if key[0] == "request"})
    for edge in days.edges:
        counts.update(_requests(connection, replace(asked, since=edge.since, until=edge.until)))

    def by(kind: str) -> dict[str, int]:
        return {value: n for (of, value), n in counts.items() if of == kind and n}

    total = counts["all", ""]
    return Stats(
        interventions=total,
        first_at=_end(connection, filters, newest=False) if total else None,
        last_at=_end(connection, filters, newest=True) if total else None,
        by_outcome=by("outcome"),
        by_mode=by("mode"),
        by_category=by("category"),
        by_trigger=by("trigger"),
        by_review_state=by("review_state"),
        requests=counts["request", "all"],
        halted_requests=counts["request", "halted"],
    )


def _rows(connection: Connection, filters: Filters) -> Counts:
    """One pass over the rows that fit."""
    columns = [interventions.c[name] for name in _KINDS.values()]
    query = select(*columns, func.count()).where(*conditions(interventions, filters)).group_by(*columns)
    found: Counts = Counter()
    for *values, n in connection.execute(query):
        found["all", ""] += n
        for kind, value in zip(_KINDS, values, strict=True):
            found[kind, "none" if value is None else value] += n
    return found


def _requests(connection: Connection, filters: Filters) -> Counts:
    every, halted = connection.execute(
        select(func.count(), func.count().filter(requests.c.interventions > 0)).where(*conditions(requests, filters))
    ).one()
    return Counter({("request", "all"): every, ("request", "halted"): halted})


def _end(connection: Connection, filters: Filters, *, newest: bool) -> datetime | None:
    """The first or last moment: found by walking an index until a row fits."""
    created = interventions.c.created_us
    order = created.desc() if newest else created.asc()
    query = select(created).where(*conditions(interventions, filters)).order_by(order).limit(1)
    found = connection.execute(query).scalar()
    return None if found is None else moment(found)
