"""Filters, pages and positions as SQL conditions."""

from dataclasses import asdict

from sqlalchemy import ColumnElement, Table, and_, or_

from proxy.log.query import Filters
from proxy.log.rows import microseconds
from proxy.log.tables import interventions

_RANGES = {"since", "until", "min_score", "max_score"}


def conditions(table: Table, filters: Filters) -> list[ColumnElement[bool]]:
    """What rows of a table with these columns must meet."""
    found: list[ColumnElement[bool]] = []
    if filters.since is not None:
        found.append(table.c.created_us >= microseconds(filters.since))
    if filters.until is not None:
        found.append(table.c.created_us < microseconds(filters.until))
    if filters.min_score is not None:
        found.append(table.c.score >= filters.min_score)
    if filters.max_score is not None:
        found.append(table.c.score <= filters.max_score)
    given = {name: value for name, value in asdict(filters).items() if value is not None}
    return found + [table.c[name] == value for name, value in given.items() if name not in _RANGES]


def beyond(created_us: int, record_id: str, *, newer: bool) -> ColumnElement[bool]:
    """Rows after a position, in the order of time and id."""
    moments, ids = interventions.c.created_us, interventions.c.id
    if newer:
        return or_(moments > created_us, and_(moments == created_us, ids > record_id))
    return or_(moments < created_us, and_(moments == created_us, ids < record_id))


def parse_cursor(cursor: str) -> tuple[int, str]:
    """The position that a page's cursor holds. Raises ValueError."""
    created_us, separator, record_id = cursor.partition(".")
    if not separator or not created_us.lstrip("-").isdecimal():
        raise ValueError("cursor must be a page's next_cursor")
    return int(created_us), record_id
