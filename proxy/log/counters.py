"""Reads the counts by day that the database's triggers keep (migration 0002), and folds PostgreSQL's deltas into them.

Counts answer questions about tenant, mode and time alone; `can_answer` says which. Whole days come from the counts, the
parts of days at both ends from the rows themselves. What is asked beyond that is counted row by row (`reader.py`).
"""

from collections import Counter
from dataclasses import fields, replace
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, Table, func, select, text, union_all

from proxy.log.query import Filters
from proxy.log.rows import microseconds, moment
from proxy.log.tables import daily_count_deltas, daily_counts

DAY_US = 86_400_000_000
ALL_TENANTS = "*"
_ANSWERED = {"tenant", "mode", "since", "until"}
_FOLD_LOCK = 0x57EE2003  # any constant: the advisory lock that lets one process fold at a time

# By kind and value.
Counts = Counter[tuple[str, str]]


class Split(NamedTuple):
    """A time span as whole days (None: there are none) and the rest at its ends."""

    first_day: int | None
    end_day: int | None
    has_days: bool
    edges: list[Filters]


def can_answer(filters: Filters) -> bool:
    """Whether counts by day know the answer."""
    asked = {item.name for item in fields(filters) if getattr(filters, item.name) is not None}
    return asked <= _ANSWERED


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


def whole_days(connection: Connection, filters: Filters, days: Split) -> Counts:
    """Counts of the whole days."""
    found: Counts = Counter()
    if not days.has_days:
        return found
    rows = [_select(daily_counts, filters, days, filters.tenant or ALL_TENANTS)]
    if connection.dialect.name == "postgresql":
        rows.append(_select(daily_count_deltas, filters, days, filters.tenant))
    every = union_all(*rows).subquery()
    keys = (every.c.kind, every.c.value, every.c.mode)
    for kind, value, mode, n in connection.execute(select(*keys, func.sum(every.c.n)).group_by(*keys)):
        found[kind, value] += int(n)
        if kind == "all":
            found["mode", mode] += int(n)
    return found


def text_bytes(connection: Connection) -> int:
    """Bytes of text in the log."""
    return whole_days(connection, Filters(), split(Filters()))["bytes", ""]


def fold(connection: Connection) -> None:
    """PostgreSQL: add the deltas to the counts. Another process that does so at this moment is left to it."""
    if connection.dialect.name != "postgresql":
        return
    if connection.execute(select(func.pg_try_advisory_xact_lock(_FOLD_LOCK))).scalar_one():
        connection.execute(_FOLD)


def _select(table: Table, filters: Filters, days: Split, tenant: str | None) -> Select[Any]:
    columns = table.c
    conditions: list[ColumnElement[bool]] = []
    if tenant is not None:
        conditions.append(columns.tenant == tenant)
    if filters.mode is not None:
        conditions.append(columns.mode == filters.mode)
    if days.first_day is not None:
        conditions.append(columns.day >= days.first_day)
    if days.end_day is not None:
        conditions.append(columns.day < days.end_day)
    return select(columns.kind, columns.value, columns.mode, columns.n).where(*conditions)


_FOLD = text(
    "WITH moved AS (DELETE FROM daily_count_deltas RETURNING day, tenant, mode, kind, value, n) "
    "INSERT INTO daily_counts (day, tenant, mode, kind, value, n) "
    "SELECT day, t.tenant, mode, kind, value, sum(n) "
    f"FROM moved CROSS JOIN LATERAL (VALUES (moved.tenant), ('{ALL_TENANTS}')) AS t(tenant) GROUP BY 1, 2, 3, 4, 5 "
    "ON CONFLICT (day, tenant, mode, kind, value) DO UPDATE SET n = daily_counts.n + excluded.n"
)
