"""Brings what a spool holds into the database, in order, every line once."""

import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Connection, Engine, select

from proxy.log.entries import Complete, Entry, apply
from proxy.log.errors import LogError, LogUnavailable, RecordRejected, UnknownIntervention
from proxy.log.failures import translated
from proxy.log.rejected import put_aside
from proxy.log.spool import Chunk, Spool, SpoolPlace
from proxy.log.sql import insert_once, insert_or_update
from proxy.log.tables import chores, spools

logger = logging.getLogger("steer.log")

Write = Callable[[Connection], None]
# Runs writes in one transaction; what went wrong, None where nothing did.
Attempt = Callable[[Sequence[Write]], LogError | None]


def replay(spool: Spool, attempt: Attempt, *, most_s: float = math.inf) -> LogError | None:
    """What waits in a file; a portion at least, and no further one after `most_s`. Returns why the database stopped it;
    None where it did not."""
    try:
        return _replay(spool, attempt, time.monotonic() + most_s)
    except OSError as error:
        return _unreadable(spool.path, error)


def _replay(spool: Spool, attempt: Attempt, until: float) -> LogError | None:
    position: list[int] = []
    if error := attempt([lambda connection: position.append(_position(connection, spool.spool_id))]):
        return error
    count = 0
    try:
        for chunk in spool.chunks(position[-1]):
            spool.is_ending = spool.is_ending or chunk.is_last
            if error := _apply(spool, chunk, attempt):
                return error
            count += len(chunk.entries)
            if chunk.damaged:
                logger.error("%d lines of the spool %s are damaged and are passed over", chunk.damaged, spool.path)
            if spool.replayed(chunk.end) or time.monotonic() >= until:
                break
    finally:
        spool.is_ending = False
    if not spool.has_entries:
        attempt([lambda connection: _forget(connection, spool.spool_id)])
    logger.warning("the database is back: %d writes were replayed from the spool", count)
    return None


def adopt(place: SpoolPlace, attempt: Attempt) -> LogError | None:
    """Replay what dead processes left behind, and delete their files."""
    for spool in Spool.abandoned(place):
        error = replay(spool, attempt) if spool.has_entries else None
        try:
            spool.close(delete=error is None)
        except OSError as failure:
            error = error or _unreadable(spool.path, failure)
        if error is not None:
            logger.error("%s", error)
            return error
    return None


def log_id(connection: Connection) -> str:
    """Of this database, its backups among it: drawn once."""
    insert_once(connection, chores, {"name": "log_id", "done_us": secrets.randbits(62)})
    return f"{connection.execute(select(chores.c.done_us).where(chores.c.name == 'log_id')).scalar_one():016x}"


def attempts(engine: Engine) -> Attempt:
    """Transactions of an engine, for `adopt` where there is no writer yet."""

    def attempt(writes: Sequence[Write]) -> LogError | None:
        try:
            with translated(engine.url), engine.begin() as connection:
                for write in writes:
                    write(connection)
        except LogError as error:
            return error
        return None

    return attempt


def _unreadable(path: Path, error: OSError) -> LogError:
    return LogUnavailable(
        f"the spool {path} can't be read or emptied ({error.strerror}): see to its disk and its rights"
    )


def _apply(spool: Spool, chunk: Chunk, attempt: Attempt) -> LogError | None:
    # A completion may stand before its insert where one of them was late; inserts depend on nothing.
    ordered = sorted(chunk.entries, key=lambda entry: isinstance(entry, Complete))
    spool_id = spool.spool_id
    done: Write = lambda connection: _remember(connection, spool_id, chunk.end)  # noqa: E731 - a write among writes
    error = attempt([*(_write(entry) for entry in ordered), done])
    if not isinstance(error, RecordRejected | UnknownIntervention):
        return error
    for entry in ordered:
        error = attempt([_write(entry)])
        if isinstance(error, RecordRejected | UnknownIntervention):
            _put_aside(spool.path.parent, entry, error)
        elif error is not None:
            return error
    return attempt([done])


def _write(entry: Entry) -> Write:
    return lambda connection: apply(connection, entry)


def _put_aside(folder: Path, entry: Entry, error: LogError) -> None:
    """It can be looked at, and imported by hand."""
    path = put_aside(folder, entry)
    logger.error("the database refuses a write of the spool, which is now in %s: %s", path, error)


def _position(connection: Connection, spool_id: str) -> int:
    found = connection.execute(select(spools.c.replayed_bytes).where(spools.c.spool_id == spool_id)).scalar()
    return int(found or 0)


def _remember(connection: Connection, spool_id: str, end: int) -> None:
    values = {"spool_id": spool_id, "replayed_bytes": end}
    insert_or_update(connection, spools, values, key="spool_id", set_={"replayed_bytes"})


def _forget(connection: Connection, spool_id: str) -> None:
    connection.execute(spools.delete().where(spools.c.spool_id == spool_id))
