"""Deletes records on request: by age, request or tenant, with their texts, reviews, samples and request counts.

What a database deletes it may keep on disk for a while: SQLite writers overwrite it at once (`secure_delete`) and the
journal is emptied here; on PostgreSQL `VACUUM` frees it.
"""

from collections.abc import Iterator

from sqlalchemy import Engine, select

from proxy.log.failures import translated
from proxy.log.purges import Purge
from proxy.log.retention import delete_some, sample_tables
from proxy.log.tables import interventions, requests


def ids_of(engine: Engine, purge: Purge) -> set[str]:
    """Records and samples that are to go. Raises LogError."""
    with translated(engine.url), engine.connect() as connection:
        return {
            found
            for table in (interventions, *sample_tables())
            for found in connection.execute(select(table.c.id).where(*purge.where(table))).scalars()
        }


def carry_out(engine: Engine, purge: Purge) -> Iterator[int]:
    """Delete in small transactions beside whoever writes; yields rows deleted by each. Raises LogError.

    `purges.remember` comes first, so that nothing that is under way comes after.
    """
    for table in (interventions, *sample_tables(), requests):
        while True:
            with translated(engine.url), engine.begin() as connection:
                number = delete_some(connection, table, purge.where(table))
            yield number
            if not number:
                break
    _empty_journal(engine)


def _empty_journal(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        return
    with translated(engine.url):
        raw = engine.raw_connection()
        try:
            raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            raw.close()
