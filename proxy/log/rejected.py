"""What the database refuses on replay: nothing is thrown away, it lies in a file beside the spool for somebody to see.

The file holds text, so a purge reaches it. Whoever changes it holds its lock.
"""

import fcntl
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from proxy.log.entries import Complete, Count, Entry, Insert, dump, load
from proxy.log.purges import Purge

_NAME = "rejected.jsonl"


def put_aside(folder: Path, entry: Entry) -> Path:
    """Append it; returns the file. Raises OSError."""
    path = folder / _NAME
    with _locked(path, os.O_CREAT) as file:
        file.seek(0, os.SEEK_END)
        file.write(dump(entry) + b"\n")
    return path


def purge_rejected(folder: Path, purge: Purge, ids: Set[str], *, dry_run: bool = False) -> tuple[Path, int]:
    """Take out what a purge covers, `ids` among it; returns the file and the number of lines. Raises OSError."""
    path = folder / _NAME
    if not path.exists():
        return path, 0
    with _locked(path) as file:
        lines = file.readlines()
        entries = [_entry(line) for line in lines]
        gone = {str(entry.columns["id"]) for entry in entries if isinstance(entry, Insert) and _fits(entry, purge, ids)}
        kept = [line for line, entry in zip(lines, entries, strict=True) if not _fits(entry, purge, ids | gone)]
        if len(kept) < len(lines) and not dry_run:
            # In place, since others may wait for the lock of this very file; overwritten, not only forgotten.
            content, size = b"".join(kept), file.seek(0, os.SEEK_END)
            file.seek(0)
            file.write(content + bytes(size - len(content)))
            file.flush()
            os.fsync(file.fileno())
            file.truncate(len(content))
    return path, len(lines) - len(kept)


def _fits(entry: Entry | None, purge: Purge, ids: Set[str]) -> bool:
    match entry:
        case Insert(columns):
            return columns["id"] in ids or purge.covers(columns)
        case Complete(record_id, whose=whose):
            return record_id in ids or (whose is not None and purge.covers(whose))
        case Count(columns):
            return purge.covers(columns)
        case None:  # somebody else wrote this line
            return False


def _entry(line: bytes) -> Entry | None:
    try:
        return load(line)
    except (ValueError, KeyError, TypeError):
        return None


@contextmanager
def _locked(path: Path, flags: int = 0) -> Iterator[BinaryIO]:
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600), "r+b") as file:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        yield file
