"""Turns what a database driver raises into the log's own errors. The one place that knows drivers' error codes.

Drivers quote statements and values in their messages; those may hold user text, so only codes and names are passed on.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.engine import URL
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, SQLAlchemyError, TimeoutError

from proxy.log.errors import (
    LogDamaged,
    LogError,
    LogFull,
    LogLocked,
    LogReadOnly,
    LogUnavailable,
    RecordRejected,
)

_SQLITE_PRIMARY = 0xFF  # an extended result code holds the primary one in its lowest byte

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_PG_FULL = ("53100", "53200")
_PG_READ_ONLY = ("25006", "42501")
_PG_LOCKED = ("55P03", "57014")
_PG_CONFLICT = ("40P01", "40001")  # two transactions met; the same again succeeds


@contextmanager
def translated(url: URL) -> Iterator[None]:
    """Raise LogError instead of what the driver raises."""
    try:
        yield
    except SQLAlchemyError as error:
        raise log_error(error, url) from error


def log_error(error: SQLAlchemyError, url: URL) -> LogError:
    """The LogError for a database failure."""
    where = describe(url)
    if isinstance(error, TimeoutError):
        return LogUnavailable(f"{where}: all connections are busy; try again, or raise the server's limits")
    if not isinstance(error, DBAPIError):
        return LogUnavailable(f"{where}: {type(error).__name__}; see that the database's driver is installed")
    if isinstance(error, IntegrityError | DataError):
        return RecordRejected(f"{where} refuses the record ({_code(error)}); please report this as a bug")
    if isinstance(error.orig, sqlite3.Error):
        return _sqlite_error(error.orig, where)
    return _postgres_error(error, where)


def describe(url: URL) -> str:
    """The log's name in messages: no password."""
    if url.get_backend_name() == "sqlite":
        return f"the intervention log {url.database}"
    return f"the intervention log on {url.host or 'localhost'}:{url.port or 5432}/{url.database or ''}"


def _code(error: DBAPIError) -> str:
    name = getattr(error.orig, "sqlite_errorname", None) or getattr(error.orig, "sqlstate", None)
    return str(name or type(error.orig).__name__)


def _sqlite_error(error: sqlite3.Error, where: str) -> LogError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    match getattr(error, "sqlite_errorcode", 0) & _SQLITE_PRIMARY:
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return LogReadOnly(
                f"{where} can't be written ({name}): give this user write permission on the file and on its folder, "
                "or name another place with log.url"
            )
        case sqlite3.SQLITE_CANTOPEN:
            return LogUnavailable(
                f"{where} can't be opened ({name}): its folder must exist and be writable for this user"
            )
        case sqlite3.SQLITE_FULL:
            return LogFull(f"{where}: the disk is full; free space or move the log (log.url), then try again")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return LogLocked(
                f"{where} is locked ({name}): another program holds it in a long transaction; close that program"
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return LogDamaged(
                f"{where} is not a sound SQLite database ({name}): restore it from a backup, or move it away; a new "
                "one is then made"
            )
        case sqlite3.SQLITE_IOERR:
            return LogUnavailable(
                f"{where}: reading or writing failed ({name}); look at the disk's health, free space and quota"
            )
        case _:
            return LogUnavailable(f"{where} failed ({name})")


def _postgres_error(error: DBAPIError, where: str) -> LogError:
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # libpq gives a failed connection no code. In another language than English the general words below must do.
        words = str(error.orig)
        state = "3D000" if "does not exist" in words else "28P01" if "authentication failed" in words else None
    if state is None:
        return LogUnavailable(
            f"{where} can't be reached or broke off: see that the server runs, that log.url is right, and that this "
            "host may connect"
        )
    if state in _PG_FULL:
        return LogFull(f"{where}: the server is out of space or memory ({state}); free some, then try again")
    if state in _PG_READ_ONLY:
        return LogReadOnly(f"{where} takes no writes ({state}): connect to the primary, with a role that may write")
    if state in _PG_LOCKED:
        return LogLocked(f"{where}: a lock or time limit was hit ({state}); try again, and look for long transactions")
    if state in _PG_CONFLICT:
        return LogUnavailable(f"{where}: two transactions met ({state}); try again")
    if state.startswith("28"):
        return LogUnavailable(f"{where} refuses this user or password ({state}): correct log.url")
    if state == "3D000":
        return LogUnavailable(f"{where}: there is no such database; create it, or correct log.url")
    return LogUnavailable(f"{where} failed (SQLSTATE {state})")
