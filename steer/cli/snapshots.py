"""Reaches copies of records outside the log: frozen pair snapshots, rollouts of records, and the adapters they fed.

Found by their manifests below the given folders. A snapshot loses the pairs that were made of a purged record, its
manifest says so and names what its files were before; files that other programs made of it go. What a trained adapter
learned can't be taken out again: adapters whose parents are a purged snapshot are named, so that they are trained anew.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_MANIFEST = "manifest.json"


@dataclass(slots=True)
class Reached:
    """What a purge found and did."""

    snapshots: dict[Path, int] = field(default_factory=dict)  # pairs taken out
    rollouts: dict[Path, int] = field(default_factory=dict)  # lines taken out
    adapters: list[Path] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Gone:
    """What is to go."""

    record_ids: frozenset[str]
    tenant: str | None = None  # with nothing else asked for: all that is the tenant's, its records in the log or not

    def pair(self, pair: dict[str, Any]) -> bool:
        """Whether a pair was made of it."""
        return bool(self.record_ids.intersection(pair.get("record_ids", ()))) or self._is_theirs(pair)

    def rollout(self, line: dict[str, Any]) -> bool:
        """Whether a rollout completes it."""
        return line.get("record_id") in self.record_ids or self._is_theirs(line)

    def _is_theirs(self, item: dict[str, Any]) -> bool:
        return self.tenant is not None and item.get("tenant") == self.tenant


def reach(folders: list[Path], gone: Gone, *, dry_run: bool = False) -> Reached:
    """Everything below the folders. Raises OSError, ValueError for a file that is not what its manifest says."""
    reached, digests = Reached(), set[str]()
    for path in _below(folders, _MANIFEST):
        manifest = _read(path)
        if manifest.get("kind") == "pairs":
            number = _snapshot(path, manifest, gone, dry_run=dry_run)
            if number:
                reached.snapshots[path.parent] = number
                digests |= _digests(manifest)
    for path in _below(folders, "rollouts.jsonl"):
        if number := _filter(path, gone.rollout, dry_run=dry_run):
            reached.rollouts[path] = number
    for path in _below(folders, _MANIFEST):
        fed = _fed_by(_read(path))
        if fed & digests:
            reached.adapters.append(path.parent)
    return reached


def _snapshot(path: Path, manifest: dict[str, Any], gone: Gone, *, dry_run: bool) -> int:
    folder, taken, pair_ids = path.parent, 0, set[str]()

    def goes(pair: dict[str, Any]) -> bool:
        if gone.pair(pair):
            pair_ids.add(pair["id"])
            return True
        return False

    for name in manifest["files"]:
        taken += _filter(folder / name, goes, dry_run=dry_run)
    if not taken or dry_run:
        return taken
    for copy in sorted(folder.glob("trl/*.jsonl")):
        _filter(copy, lambda row: row.get("id") in pair_ids, dry_run=False)
    shutil.rmtree(folder / "hf", ignore_errors=True)  # Arrow files can't lose a row: export them again
    counts = {name: _count(folder / f"{name}.jsonl") for name in manifest["counts"]}
    kept = sorted(_record_ids(folder / name for name in manifest["files"]))
    purge = {"at": datetime.now(UTC).isoformat(), "pairs": taken, "files": manifest["files"]}
    changed = {
        "files": {name: _digest(folder / name) for name in manifest["files"]},
        "counts": counts,
        "record_ids": kept,
        "purged": [*manifest.get("purged", []), purge],
    }
    _write(path, json.dumps(manifest | changed, indent=2, ensure_ascii=False) + "\n")
    return taken


def _filter(path: Path, goes: Callable[[dict[str, Any]], bool], *, dry_run: bool) -> int:
    """Take lines out of a JSONL file, which is replaced in one move where any went. Returns how many."""
    part = path.with_name(path.name + ".part")
    taken = 0
    try:
        with path.open(encoding="utf-8") as lines, part.open("w", encoding="utf-8") as kept:
            for line in lines:
                if line.strip() and goes(json.loads(line)):
                    taken += 1
                else:
                    kept.write(line)
            kept.flush()
            os.fsync(kept.fileno())
        if taken and not dry_run:
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return taken


def _digests(manifest: dict[str, Any]) -> set[str]:
    """Hashes of a snapshot's files, as they are and as they were before each purge."""
    before = [purge["files"] for purge in manifest.get("purged", [])]
    return {digest for files in (manifest["files"], *before) for digest in files.values()}


def _fed_by(manifest: dict[str, Any]) -> set[str]:
    """Hashes of the pair files that an adapter's manifest names as its parents."""
    parents = manifest.get("parents")
    pairs = parents.get("pairs") if isinstance(parents, dict) else None
    files = pairs.get("files") if isinstance(pairs, dict) else None
    return set(files.values()) if isinstance(files, dict) else set()


def _record_ids(paths: Iterator[Path]) -> set[str]:
    found: set[str] = set()
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                found.update(json.loads(line)["record_ids"])
    return found


def _below(folders: list[Path], name: str) -> list[Path]:
    found = {path.resolve() for folder in folders for path in folder.rglob(name)}
    return sorted(path for path in found if path.is_file())


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): nothing was purged there") from error
    return value if isinstance(value, dict) else {}


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _count(path: Path) -> int:
    with path.open(encoding="utf-8") as lines:
        return sum(1 for line in lines if line.strip())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
