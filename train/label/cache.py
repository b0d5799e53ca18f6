"""Answers of teachers, kept for good: one line a call, appended and fsynced before the answer is used.

The key is a hash of everything that shapes an answer: the model, the sampling, the format and the whole text that was
sent (instructions, examples, conversation, sentences, and earlier answers where one was refused). Where the teacher is
served does not matter. A line that a kill or a full disk cut short is dropped at the next start. One job at a time.
"""

import fcntl
import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from train.label.errors import LabelConfigError


class Usage(BaseModel):
    """Tokens as the engine counted them; `cached` is the part of `input` that it had in its prefix cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: int = 0
    cached: int = 0
    output: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            input=self.input + other.input, cached=self.cached + other.cached, output=self.output + other.output
        )


class Reply(BaseModel):
    """What came of one call. `refused` says why the engine would not answer this very request; None: it answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = ""
    finish_reason: str | None = None
    refused: str | None = None
    usage: Usage | None = None


class CallCache:
    """`path`, read whole and held open for appending. Use it with `with`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._replies: dict[str, Reply] = {}
        self._spent: dict[str, tuple[int, Usage]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)  # it holds what users wrote
        except OSError as error:
            raise LabelConfigError(f"cannot write the cache {path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise LabelConfigError(f"{path} is in use by another job; wait for it, or give another cache") from error
        try:
            self._size = self._recover()
        except BaseException:
            os.close(self._file)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def get(self, key: str) -> Reply | None:
        """The newest reply under this key."""
        return self._replies.get(key)

    def spent(self, key: str) -> tuple[int, Usage]:
        """How many calls were ever made under this key, and their tokens."""
        return self._spent.get(key, (0, Usage()))

    def put(self, key: str, reply: Reply) -> None:
        """On disk when this returns; nothing of it is, where this raises OSError."""
        line = json.dumps({"key": key, **reply.model_dump(mode="json")}, ensure_ascii=False).encode() + b"\n"
        try:
            written = 0
            while written < len(line):  # a disk that fills up takes what fits, then says so
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError as error:
            os.ftruncate(self._file, self._size)
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        self._size += len(line)
        self._keep(key, reply)

    def _keep(self, key: str, reply: Reply) -> None:
        calls, usage = self.spent(key)
        self._replies[key] = reply
        self._spent[key] = (calls + 1, usage + (reply.usage or Usage()))

    def _recover(self) -> int:
        """Reads the whole lines and cuts a torn one off; how many bytes are left."""
        size = 0
        with os.fdopen(os.dup(self._file), "rb") as lines:
            for number, raw in enumerate(lines, 1):
                if not raw.endswith(b"\n"):
                    break
                try:
                    value = json.loads(raw)
                    self._keep(value.pop("key"), Reply.model_validate(value))
                except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
                    raise LabelConfigError(
                        f"{self._path}, line {number} is no cached answer; give another cache, or delete the line"
                    ) from error
                size += len(raw)
        os.ftruncate(self._file, size)
        return size


def call_key(body: dict[str, Any]) -> str:
    """The key of a request's body."""
    return hashlib.sha256(json.dumps(body, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
