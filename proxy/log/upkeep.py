"""What an operator does to a whole log: a backup while it is in use, and new keys for its texts."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from sqlalchemy import Column, Engine, Table, select, tuple_, update
from sqlalchemy.engine import URL

from proxy.log.errors import ExportError, LogUnavailable
from proxy.log.failures import describe, translated
from proxy.log.tables import intervention_texts
from proxy.log.targets import check_copy
from proxy.log.texts import TextKeeper

_ROWS = 200


def backup(url: URL, target: Path) -> int:
    """Copy a SQLite log while it is in use; returns bytes. The copy appears under its name when it is whole.

    Raises ExportError for PostgreSQL, whose own tools do it better, and for the log's own place; LogUnavailable.
    """
    if url.get_backend_name() != "sqlite":
        raise ExportError(f"{describe(url)}: back it up with pg_dump, which copies a server in use")
    check_copy(target, Path(url.database or ""))
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    part.touch(mode=0o600)
    try:
        with (
            closing(sqlite3.connect(f"file:{url.database}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(part)) as copy,
        ):
            source.backup(copy)  # in one step: a copy in parts would begin anew with every write of others
            copy.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    except sqlite3.Error as error:
        part.unlink(missing_ok=True)
        raise LogUnavailable(f"{describe(url)} can't be copied ({error.sqlite_errorname})") from error
    part.replace(target)
    return target.stat().st_size


def rekey(engine: Engine, texts: TextKeeper) -> Iterator[int]:
    """Write every text anew as the settings say now: with the first key, or in the clear without one.

    Yields texts written by each small transaction; may be stopped and run again. Raises TextLocked, LogError.
    """
    for table, keys, body in _bodies():
        position: tuple[str, ...] | None = None
        while True:
            with translated(engine.url), engine.begin() as connection:
                query = select(*keys, body).where(body.is_not(None)).order_by(*keys).limit(_ROWS)
                if position is not None:
                    query = query.where(tuple_(*keys) > tuple_(*position))
                rows = connection.execute(query).all()
                written = 0
                for *values, found in rows:
                    if texts.is_current(found):
                        continue
                    here = [key == value for key, value in zip(keys, values, strict=True)]
                    connection.execute(update(table).where(*here).values({body: texts.seal(texts.open(found))}))
                    written += 1
            yield written
            if len(rows) < _ROWS:
                break
            position = tuple(rows[-1][: len(keys)])


def _bodies() -> list[tuple[Table, list[Column[str]], Column[str]]]:
    """Every column that holds text, with the key of its table."""
    from proxy.review.tables import review_texts, sample_texts  # noqa: PLC0415 - its tables are built on ours
    from proxy.shadow.tables import shadow_halts  # noqa: PLC0415 - likewise

    bodies = [table.c.body for table in (intervention_texts, sample_texts, review_texts)]
    bodies += [shadow_halts.c.halt, shadow_halts.c.completion]
    return [(body.table, list(body.table.primary_key), body) for body in bodies]
