"""Where a bake keeps what it makes, and what says that a stage is done.

    OUT/0001/bake.json            the config that this bake was begun with
    OUT/0001/1-collect/ …         one folder a stage; stage.json is written last, names its parents by hash
    OUT/0001/report.json          the bake has ended, however

A bake without report.json is unfinished: the next run goes on with it, and begins no other.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.bake.errors import BakeConfigError
from train.ipo.outputs import file_digest, read_json, write_json

STAGE = "stage.json"
REPORT = "report.json"
_BAKE = "bake.json"


@dataclass(frozen=True, slots=True)
class BakeFolder:
    """One bake."""

    path: Path

    @property
    def number(self) -> int:
        """Its number among the bakes of OUT."""
        return int(self.path.name)

    @property
    def digest(self) -> str:
        """Of the config that it was begun with."""
        return str(read_json(self.path / _BAKE)["sha256"])

    @property
    def report(self) -> dict[str, Any] | None:
        """How it ended; None: it has not."""
        return read_json(self.path / REPORT) if (self.path / REPORT).exists() else None

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self.path / name

    def done(self, name: str) -> dict[str, Any] | None:
        """What a finished stage said; None where it is not finished."""
        path = self.path / name / STAGE
        return read_json(path) if path.exists() else None

    def finish(self, name: str, parents: Mapping[str, str], files: Mapping[str, Path], result: dict[str, Any]) -> str:
        """Write a stage's manifest, last of all; returns its hash."""
        named = {key: {"path": str(path), "sha256": file_digest(path)} for key, path in files.items()}
        path = self.path / name / STAGE
        write_json(path, {"stage": name, "parents": dict(parents), "files": named, "result": result})
        return file_digest(path)


def begun(out: Path) -> Iterator[BakeFolder]:
    """Every bake below OUT, oldest first."""
    if not out.is_dir():
        return
    found = [path for path in out.iterdir() if path.is_dir() and path.name.isdecimal() and (path / _BAKE).exists()]
    yield from (BakeFolder(path) for path in sorted(found, key=lambda path: int(path.name)))


def unfinished(out: Path) -> BakeFolder | None:
    """The bake to go on with."""
    return next((bake for bake in begun(out) if bake.report is None), None)


def begin(out: Path, config: dict[str, Any]) -> BakeFolder:
    """The unfinished bake, else a new one. Raises BakeConfigError where its config was another."""
    digest = config_digest(config)
    if (bake := unfinished(out)) is not None:
        if bake.digest != digest:
            raise BakeConfigError(
                f"{bake.path} was begun with another config and is unfinished: finish it with that one, or give it up "
                "with --abandon"
            )
        return bake
    number = max((bake.number for bake in begun(out)), default=0) + 1
    path = out / f"{number:04d}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / _BAKE, {"sha256": digest, "config": config})
    except OSError as error:
        raise BakeConfigError(f"cannot write to {path}: {error.strerror}; give another --out") from error
    return BakeFolder(path)


def config_digest(config: dict[str, Any]) -> str:
    """SHA-256 of a config."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
