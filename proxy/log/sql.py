"""The two statements that SQLite and PostgreSQL share in meaning but SQLAlchemy builds per dialect."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

Insert = postgresql.Insert | sqlite.Insert


def insert_once(connection: Connection, table: Table, values: Mapping[str, Any]) -> bool:
    """INSERT that leaves a row with the same key as it is. True where a row was written."""
    # Asked for the key back, since a driver's row count after INSERT is no promise.
    statement = _insert(connection, table, values).on_conflict_do_nothing().returning(*table.primary_key)
    return connection.execute(statement).first() is not None


def insert_or_update(
    connection: Connection, table: Table, values: Mapping[str, Any], *, key: str, set_: set[str]
) -> Insert:
    """INSERT that, where a row with the same key exists, sets the columns in `set_` there."""
    statement = _insert(connection, table, values)
    return statement.on_conflict_do_update(index_elements=[key], set_={name: statement.excluded[name] for name in set_})


def _insert(connection: Connection, table: Table, values: Mapping[str, Any]) -> Insert:
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table).values(**values)
    return sqlite.insert(table).values(**values)
