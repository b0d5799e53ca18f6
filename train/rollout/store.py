"""Files of a job: results streamed to disk line by line, so that a killed job goes on where it stopped.

Rules kept here: a result is one line, written whole; a line that a kill cut short is dropped on the next start; the
finished file appears under its name only when it holds every result, in the order of the input. Reports and manifests
are written beside their name and moved.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.rollout.errors import RolloutConfigError


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(part, path)


def claim(out: Path, key: str, config: dict[str, Any], error_kind: type[Exception] = RolloutConfigError) -> None:
    """Make the folder, for this very job alone. Raises `error_kind` where it holds another's."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        saved = out / "config.json"
        if saved.exists() and json.loads(saved.read_text(encoding="utf-8")).get("key") != key:
            raise error_kind(
                f"{out} holds a job with another config or input; give another --out, or remove the folder"
            )
        write_json(saved, {"key": key, "config": config})
    except OSError as error:
        raise error_kind(f"cannot write to {out}: {error.strerror}; give another --out") from error
    except ValueError as error:
        raise error_kind(f"{out / 'config.json'} is not JSON; remove the folder, or give another --out") from error


class LineStore:
    """`name` in `out`: lines keyed by id, kept in `name.part` until all are there. One thread writes."""

    def __init__(self, out: Path, name: str) -> None:
        self.path = out / name
        self._part = out / f"{name}.part"
        self._offsets: dict[str, tuple[int, int]] = {}
        self._size = 0
        if self._part.exists():
            self._recover()

    @property
    def done(self) -> frozenset[str]:
        """Ids whose lines are on disk."""
        return frozenset(self._offsets)

    def __contains__(self, id: str) -> bool:
        return id in self._offsets

    def append(self, id: str, line: str) -> None:
        """One more result, on disk when this returns."""
        raw = line.encode() + b"\n"
        with self._part.open("ab") as sink:
            sink.write(raw)
            sink.flush()
            os.fsync(sink.fileno())
        self._offsets[id] = (self._size, len(raw))
        self._size += len(raw)

    def finish(self, order: Sequence[str]) -> None:
        """All lines in this order under the file's name."""
        ordered = self.path.with_name(self.path.name + ".sorted")
        with ordered.open("wb") as sink:
            if order:
                with self._part.open("rb") as source:
                    for id in order:
                        offset, size = self._offsets[id]
                        source.seek(offset)
                        sink.write(source.read(size))
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(ordered, self.path)
        self._part.unlink(missing_ok=True)

    def _recover(self) -> None:
        """Index the whole lines, cut off what follows them."""
        with self._part.open("rb+") as lines:
            while (raw := lines.readline()).endswith(b"\n"):
                try:
                    id = str(json.loads(raw)["id"])
                except (ValueError, KeyError, TypeError):
                    break  # a torn write inside the file: nothing after it can be trusted
                self._offsets[id] = (self._size, len(raw))
                self._size += len(raw)
            lines.truncate(self._size)
