"""Opens the log's database: which URLs are allowed, and the settings that make a commit mean "on disk".

Writers and readers get engines of their own: a writer takes the write lock when its transaction begins (a SQLite
transaction that first reads can otherwise not become a writer without failing) and has time limits; a reader has not.
"""

import errno
import os
import sqlite3
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from proxy.log.errors import LogReadOnly, LogUnavailable, LogUrlError

# SQLite: how long a write waits for another process's. Ours take milliseconds, so this covers backups and the like.
BUSY_TIMEOUT_MS = 5000
# PostgreSQL: a server that doesn't answer must not hold a request longer than the session waits for the log.
CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 5000

_EXAMPLES = "sqlite:///path/steer.sqlite or postgresql+psycopg://user:password@host/database"


def parse_url(url: str) -> URL:
    """The URL, checked. Raises LogUrlError."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise LogUrlError(f"log.url is no database URL; write {_EXAMPLES}") from None
    match parsed.drivername:
        case "sqlite" | "sqlite+pysqlite":
            if not parsed.database or parsed.database == ":memory:" or parsed.database.startswith("file:"):
                raise LogUrlError(f"log.url must name a file: a log in memory would be lost; write {_EXAMPLES}")
            return parsed.set(drivername="sqlite+pysqlite", database=os.path.abspath(parsed.database))
        case "postgresql" | "postgres" | "postgresql+psycopg":
            if find_spec("psycopg") is None:
                raise LogUrlError("log.url names PostgreSQL, whose driver is missing: install steer[postgres]")
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise LogUrlError(f"log.url: '{other}' is not supported; write {_EXAMPLES}")


def prepare_file(url: URL) -> None:
    """Make the SQLite file, readable for its owner alone, and its folder. Raises LogUnavailable, LogReadOnly."""
    if url.get_backend_name() != "sqlite":
        return
    path = Path(url.database or "")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _make_file(path)
    except (PermissionError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise LogReadOnly(
            f"the intervention log {path} can't be made or written ({error.strerror}): give this user write permission "
            "on its folder, or name another place with log.url"
        ) from error
    except OSError as error:
        kind = LogReadOnly if error.errno == 30 else LogUnavailable  # EROFS
        raise kind(
            f"the intervention log {path} can't be made ({error.strerror}): choose another place with log.url"
        ) from error


def _make_file(path: Path) -> None:
    """Make it where there is none. **A file that is there is never opened**: closing it would take away all locks that
    this process's connections hold on it (POSIX); another process would then believe to be alone and delete their WAL,
    and what they write from then on would be lost (sqlite.org/howtocorrupt.html, 2.2).
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if not os.access(path, os.R_OK | os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))


def open_engine(url: URL, *, writes: bool) -> Engine:
    """An engine for a checked URL; connects when first used."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, writes)
    options = "-c synchronous_commit=on -c idle_in_transaction_session_timeout=60000"
    if writes:
        options += f" -c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout={STATEMENT_TIMEOUT_MS}"
    arguments = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "steer",
        "options": options,
        "tcp_user_timeout": CONNECT_TIMEOUT_S * 1000,
        "keepalives_idle": 10,
    }
    return create_engine(
        url,
        connect_args=arguments,
        pool_pre_ping=True,
        pool_size=1 if writes else 5,
        hide_parameters=True,
        # A reader's statements see one moment, as SQLite's do: no record whose text went between two of them.
        isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
    )


def _sqlite_engine(url: URL, writes: bool) -> Engine:
    arguments = {"timeout": BUSY_TIMEOUT_MS / 1000, "check_same_thread": False, "isolation_level": None}
    engine = create_engine(url, connect_args=arguments, hide_parameters=True)
    path = url.database or ""

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, record: Any) -> None:
        record.info["file"] = _identity(path)
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")  # WAL's default would lose the last commits with the power
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten, not only forgotten
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if writes and connection.info["file"] != _identity(path):  # what is written there nobody would find
            raise LogUnavailable(
                f"the intervention log {path} was moved or deleted while it was in use: put it back, or restart what "
                "writes to it"
            )
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _identity(path: str) -> tuple[int, int] | None:
    """Which file it is; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
