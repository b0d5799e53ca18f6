"""Where records wait while the database is down: a file of this process, append and fsync, replayed in order.

Rules
- What `append` returned from is on disk. A line that a crash cut short was never confirmed, and is passed over.
- A file belongs to the process that holds its lock. Without a lock it is a dead process's: whoever finds it replays it.
- The database remembers how far a file has been replayed, in the transaction that replays it, so that every line is
  applied once, even where the process dies between the commit and the deletion of the file.
- A file belongs to the log whose id its name begins with: others that share the folder leave it alone. Without an id
  (as earlier versions named files) it is anybody's.
- A line is `crc32 json`; the file's first line is its id.
"""

import fcntl
import os
import threading
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from proxy.log.entries import Entry, load
from proxy.log.errors import LogReadOnly, SpoolFailed

_SUFFIX = ".spool"
_HEAD = b"steer-spool 1 "
# Lines applied in one transaction.
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """The folder, and the most bytes that a process may leave there. `log_id`: of the log that is spooled for."""

    folder: Path
    max_bytes: int
    log_id: str = ""


class Chunk(NamedTuple):
    """Entries of a file up to the byte `end`; `damaged` lines are passed over. `is_last`: nothing stood behind them."""

    entries: list[Entry]
    end: int
    damaged: int
    is_last: bool


@dataclass(slots=True)
class _Lines:
    data: bytes
    is_done: bool = False
    error: SpoolFailed | None = None


class Spool:
    """An open, locked spool file."""

    def __init__(self, path: Path, descriptor: int, max_bytes: int) -> None:
        self.path = path
        self._descriptor, self._max_bytes = descriptor, max_bytes
        self._changing = threading.Lock()
        self._waiting: list[_Lines] = []
        self._writing = threading.Lock()
        self._size = os.fstat(descriptor).st_size
        self._read_to = 0
        self.spool_id = ""
        self.is_ending = False
        """What is left is being replayed: what comes now may wait for that, or it would be chased for ever."""
        if self._size:
            self._read_head()

    @classmethod
    def make(cls, place: SpoolPlace) -> "Spool":
        """A file for this process, empty and locked. Raises LogReadOnly."""
        try:
            place.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            while True:
                mark = f"{place.log_id}-" if place.log_id else ""
                path = place.folder / f"{mark}{uuid.uuid4().hex}{_SUFFIX}"
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.fstat(descriptor).st_nlink:  # nobody took it for a dead process's in between
                    _sync_folder(place.folder)
                    return cls(path, descriptor, place.max_bytes)
                os.close(descriptor)
        except OSError as error:
            raise LogReadOnly(
                f"the spool folder {place.folder} can't be written ({error.strerror}): it takes records while the "
                "database is down; name another with log.spool"
            ) from error

    @classmethod
    def abandoned(cls, place: SpoolPlace) -> "Iterator[Spool]":
        """The files of dead processes, locked, one after the other; each is to be closed."""
        try:
            paths = [path for path in sorted(place.folder.glob(f"*{_SUFFIX}")) if _is_of(path, place.log_id)]
        except OSError:
            return
        for path in paths:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except OSError:
                continue  # another process was quicker
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)  # its process lives
                continue
            if os.fstat(descriptor).st_nlink:
                yield cls(path, descriptor, place.max_bytes)
            else:
                os.close(descriptor)

    @classmethod
    def of_others(cls, place: SpoolPlace) -> list[str]:
        """Files that wait here for other logs; without what stands before the dash they would be anybody's."""
        found = sorted(place.folder.glob(f"*{_SUFFIX}"))
        return [str(path) for path in found if not _is_of(path, place.log_id) and _size_of(path)]

    @property
    def has_entries(self) -> bool:
        """Whether anything waits to be replayed."""
        with self._changing:
            return bool(self._waiting) or self._size > self._read_to

    @property
    def num_bytes(self) -> int:
        """What waits, in bytes."""
        return max(self._size - self._read_to, 0)

    def append(self, *lines: bytes) -> None:
        """Write lines; returns when they are on disk. Many callers share one fsync. Raises SpoolFailed."""
        mine = _Lines(b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines))
        with self._changing:
            if self._size + sum(len(item.data) for item in self._waiting) + len(mine.data) > self._max_bytes:
                raise SpoolFailed(
                    f"the database is down and the spool {self.path} has reached log.spool_max_mb: bring the database "
                    "back, or give the spool more room"
                )
            self._waiting.append(mine)
        with self._writing:
            if not mine.is_done:
                self._write_waiting()
        if mine.error is not None:
            raise mine.error

    def chunks(self, position: int) -> Iterator[Chunk]:
        """What waits, in order, from the byte `position` on (0: the start)."""
        at = max(position, self._read_to)
        while True:
            chunk = self._chunk(at)
            if chunk is None:
                return
            at = chunk.end
            yield chunk

    def replayed(self, end: int) -> bool:
        """Everything up to `end` is in the database. Empties the file where that is all; returns whether it was."""
        with self._writing, self._changing:
            self._read_to = end
            if self._waiting or self._size > end:
                return False
            os.ftruncate(self._descriptor, 0)
            os.fsync(self._descriptor)
            self._size = self._read_to = 0
            return True

    def close(self, *, delete: bool) -> None:
        """Give the lock back; `delete` where nothing is left in the file."""
        try:
            if delete:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._descriptor)

    def _write_waiting(self) -> None:
        with self._changing:
            lines, self._waiting = self._waiting, []
            size = self._size
        head, error = b"", None
        if size == 0:
            self.spool_id = uuid.uuid4().hex
            head = _HEAD + self.spool_id.encode() + b"\n"
        data = head + b"".join(line.data for line in lines)
        try:
            if size == 0 and not os.fstat(self._descriptor).st_nlink:
                self._make_again()
            _write(self._descriptor, data, size)
        except OSError as failure:
            error = SpoolFailed(
                f"the database is down and the spool {self.path} can't be written ({failure.strerror}): free space, or "
                "move it with log.spool"
            )
        with self._changing:
            if error is None:
                self._size = size + len(data)
                self._read_to = self._read_to or len(head)
            for line in lines:
                line.is_done, line.error = True, error

    def _make_again(self) -> None:
        """Somebody deleted the file or its folder: what is written there nobody would find. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.dup2(descriptor, self._descriptor, inheritable=False)  # the lock goes with the open file
        finally:
            os.close(descriptor)
        _sync_folder(self.path.parent)

    def _read_head(self) -> None:
        head = os.pread(self._descriptor, 64, 0).partition(b"\n")[0]
        if head.startswith(_HEAD):
            self.spool_id = head.removeprefix(_HEAD).decode(errors="replace")
            self._read_to = len(head) + 1
        else:
            self._read_to = self._size  # not even its first line was finished, so nothing in it was confirmed

    def _chunk(self, at: int) -> Chunk | None:
        entries: list[Entry] = []
        damaged, end = 0, at
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(at)
            for line in file:
                if end + len(line) > self._size or not line.endswith(b"\n"):
                    break
                end += len(line)
                entry = _entry(line)
                if entry is None:
                    damaged += 1
                else:
                    entries.append(entry)
                if len(entries) >= _CHUNK:
                    break
        return Chunk(entries, end, damaged, len(entries) < _CHUNK) if end > at else None


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # its process has just taken it away
        return 0


def _is_of(path: Path, log_id: str) -> bool:
    mark, dash, _ = path.name.partition("-")
    return not dash or mark == log_id


def _entry(line: bytes) -> Entry | None:
    crc, _, body = line[:-1].partition(b" ")
    try:
        return load(body) if int(crc, 16) == zlib.crc32(body) else None
    except (ValueError, KeyError, TypeError):
        return None


def _write(descriptor: int, data: bytes, at: int) -> None:
    """All of it and on disk, or nothing of it."""
    try:
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], at + written)
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, at)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
