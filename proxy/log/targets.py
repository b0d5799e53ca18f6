"""What a command may write over: a path typed wrong must not cost anybody the log, or a folder of theirs."""

from pathlib import Path

from proxy.log.errors import ExportError

_SQLITE = b"SQLite format 3\0"
# What SQLite keeps beside a database.
_BESIDE = ("", "-wal", "-shm", "-journal")


def check_file(path: Path) -> None:
    """Raises ExportError where a file of text is to take the place of a database or a folder."""
    if path.is_dir():
        raise ExportError(f"{path} is a folder: name a file")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) == _SQLITE:
                raise ExportError(f"{path} is a database, perhaps the log itself: name another file")


def check_copy(path: Path, database: Path) -> None:
    """Raises ExportError where a copy of a database is to take the place of itself, or of a folder."""
    if path.is_dir():
        raise ExportError(f"{path} is a folder: name a file")
    real = database.resolve()
    if path.resolve() in [real.with_name(real.name + end) for end in _BESIDE] or _is_same(path, database):
        raise ExportError(f"{path} is the log itself: name another file")


def _is_same(path: Path, database: Path) -> bool:
    return path.exists() and database.exists() and path.samefile(database)
