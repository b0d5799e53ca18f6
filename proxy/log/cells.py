"""Reads the cells (migration 0006): how many rows of a day share tenant, model, mode, adapter, outcome, category,
trigger and review state. They answer questions of several of these; those of one column `counters.py` answers faster.
"""

from collections import Counter
from dataclasses import fields
from typing import Any

from sqlalchemy import Connection, text

from proxy.log.counters import Counts, Split
from proxy.log.query import Filters

KEYS = ("tenant", "model", "mode", "adapter", "outcome", "category", "trigger_id", "review_state")
NAMES = ", ".join(("day", *KEYS))
_KINDS = {"outcome": "outcome", "mode": "mode", "category": "category", "trigger": "trigger_id",
          "review_state": "review_state"}  # fmt: skip
_TIME = ("since", "until")

_OR_NOTHING = ", ".join(f"coalesce({name}, '') AS {name}" for name in KEYS)


def unfolded(source: str) -> str:
    """Deltas as the cells that they change; a request has empty strings for what it has not."""
    return f"SELECT day, {_OR_NOTHING}, n, requests, halted FROM {source}"


_SERVER = (
    f"(SELECT {NAMES}, n, requests, halted FROM daily_cells UNION ALL {unfolded('daily_count_deltas')}) AS counted"
)


def answers(filters: Filters) -> bool:
    """Whether every filter is one that cells know."""
    asked = [item.name for item in fields(filters) if getattr(filters, item.name) is not None]
    return all(name in KEYS or name in _TIME for name in asked)


def interventions_of(connection: Connection, filters: Filters, days: Split) -> Counts:
    """Counts over whole days, by kind and value."""
    found: Counts = Counter()
    columns = ", ".join(_KINDS.values())
    for *values, n in _read(connection, f"{columns}, sum(n)", f"n <> 0 {{}} GROUP BY {columns}", filters, days):
        found["all", ""] += int(n)
        for kind, value in zip(_KINDS, values, strict=True):
            found[kind, value] += int(n)
    return found


def requests_of(connection: Connection, filters: Filters, days: Split) -> Counts:
    """The same of requests."""
    [(every, halted)] = _read(connection, "sum(requests), sum(halted)", "outcome = '' {}", filters, days) or [(0, 0)]
    return Counter({("request", "all"): int(every or 0), ("request", "halted"): int(halted or 0)})


def _read(connection: Connection, what: str, where: str, filters: Filters, days: Split) -> list[Any]:
    if not days.has_days:
        return []
    asked: dict[str, Any] = {f"{name} = :{name}": getattr(filters, name) for name in KEYS}
    asked |= {"day >= :first": days.first_day, "day < :end": days.end_day}
    given = {condition: value for condition, value in asked.items() if value is not None}
    source = _SERVER if connection.dialect.name == "postgresql" else "daily_cells"
    query = f"SELECT {what} FROM {source} WHERE " + where.format("".join(f" AND {condition}" for condition in given))
    values = {condition.partition(":")[2]: value for condition, value in given.items()}
    return list(connection.execute(text(query), values))
