"""The two statements that SQLite and PostgreSQL share in meaning but SQLAlchemy builds per dialect."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Executable, Table
from sqlalchemy.dialects import postgresql, sqlite


def insert_once(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """INSERT that leaves a row with the same key as it is. True where a row was written."""
    return connection.execute(_insert_once(connection.dialect.name, table), dict(values)).first() is not None


def insert_or_update(
    connection: Connection, table: Table, values: Mapping[str, Any], *, key: str, set_: set[str]
) -> None:
    """INSERT that, where a row with the same key exists, sets the columns in `set_` there."""
    statement = _insert(connection.dialect.name, table)
    updated = {name: statement.excluded[name] for name in set_}
    connection.execute(statement.on_conflict_do_update(index_elements=[key], set_=updated), dict(values))


@cache  # building a statement takes longer than running it
def _insert_once(dialect: str, table: Table) -> Executable:
    # Asks for the key back, since a driver's row count after INSERT is no promise.
    return _insert(dialect, table).on_conflict_do_nothing().returning(*table.primary_key)


def _insert(dialect: str, table: Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
