"""Reads the counts by day that the database's triggers keep (migration 0002).

Counts answer questions about mode, time and the value of one column more; `scope_of` says which. Whole days come from
the counts, the parts of days at both ends from the rows. What is asked beyond that, cells answer (`cells.py`).
"""

from collections import Counter
from dataclasses import fields, replace
from typing import NamedTuple

from sqlalchemy import Connection, text

from proxy.log.query import Filters
from proxy.log.rows import microseconds, moment

DAY_US = 86_400_000_000

# The columns by one of which counts are kept, as a scope's name begins.
_SCOPES = {
    "tenant": "t=", "model": "m=", "adapter": "a=", "outcome": "o=", "category": "c=", "trigger_id": "g=",
    "review_state": "r=",
}  # fmt: skip
_ALWAYS = {"mode", "since", "until"}

# By kind and value.
Counts = Counter[tuple[str, str]]


class Split(NamedTuple):
    """A time span as whole days (None: there are none) and the rest at its ends."""

    first_day: int | None
    end_day: int | None
    has_days: bool
    edges: list[Filters]


def scope_of(filters: Filters) -> str | None:
    """The scope whose counts know the answer; None where only the rows do."""
    asked = {item.name: getattr(filters, item.name) for item in fields(filters) if item.name not in _ALWAYS}
    given = [(name, value) for name, value in asked.items() if value is not None]
    match given:
        case []:
            return "*"
        case [(name, value)] if name in _SCOPES:
            return f"{_SCOPES[name]}{value}"
        case _:
            return None


def split(filters: Filters) -> Split:
    """Which days lie in the span whole."""
    start = None if filters.since is None else microseconds(filters.since)
    end = None if filters.until is None else microseconds(filters.until)
    first = None if start is None else -(-start // DAY_US)
    last = None if end is None else end // DAY_US
    if first is not None and last is not None and first >= last:
        return Split(None, None, False, [filters])
    edges = []
    if start is not None and first is not None and start < first * DAY_US:
        edges.append(replace(filters, until=moment(first * DAY_US)))
    if end is not None and last is not None and last * DAY_US < end:
        edges.append(replace(filters, since=moment(last * DAY_US)))
    return Split(first, last, True, edges)


def whole_days(connection: Connection, filters: Filters, scope: str, days: Split) -> Counts:
    """Counts of the whole days in a scope."""
    found: Counts = Counter()
    if not days.has_days:
        return found
    is_server = connection.dialect.name == "postgresql"
    asked = {
        "scope = :scope": scope,
        "mode = :mode": filters.mode,
        "day >= :first": days.first_day,
        "day < :end": days.end_day,
    }
    where = " AND ".join(condition for condition, value in asked.items() if value is not None)
    given = {condition.partition(":")[2]: value for condition, value in asked.items() if value is not None}
    for kind, value, mode, n in connection.execute(text(f"{_SUM[is_server]} WHERE {where} {_GROUP}"), given):
        found[kind, value] += int(n)
        if kind == "all":
            found["mode", mode] += int(n)
    return found


def text_bytes(connection: Connection) -> int:
    """Bytes of text in the log."""
    return whole_days(connection, Filters(), "*", split(Filters()))["bytes", ""]


def unfolded(source: str) -> str:
    """Deltas as the counts that they change."""
    scopes = ", ".join(f"('{mark}' || d.{name})" for name, mark in _SCOPES.items())
    kinds = (
        "('all', '', d.n), ('outcome', d.outcome, d.n), ('category', d.category, d.n), ('trigger', d.trigger_id, d.n), "
        "('review_state', d.review_state, d.n), ('bytes', '', d.bytes), ('request', 'all', d.requests), "
        "('request', 'halted', d.halted)"
    )
    return (
        f"SELECT s.scope, d.day, d.mode, k.kind, k.value, k.n FROM {source} AS d "
        f"CROSS JOIN LATERAL (VALUES ('*'), {scopes}) AS s(scope) "
        f"CROSS JOIN LATERAL (VALUES {kinds}) AS k(kind, value, n) "
        "WHERE s.scope IS NOT NULL AND k.value IS NOT NULL AND k.n <> 0 AND (k.kind <> 'bytes' OR s.scope = '*')"
    )


_GROUP = "GROUP BY kind, value, mode"
_HEAD = "SELECT kind, value, mode, sum(n) FROM"
# By whether it is PostgreSQL.
_SUM = {
    False: f"{_HEAD} daily_counts",
    True: f"{_HEAD} (SELECT scope, day, mode, kind, value, n FROM daily_counts "
    f"UNION ALL {unfolded('daily_count_deltas')}) AS counted",
}
