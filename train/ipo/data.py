"""Reads files of pairs: one JSON object of `steer.pair.Pair` a line, `kind` saying which stage it is for.

A file of a frozen snapshot has a manifest.json beside it. Then the file must still be what the manifest says, and where
the manifest names a tokenizer, the model's must be that one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from steer.pair import PAIR_SCHEMA_VERSION, Pair
from train.ipo.errors import IpoDataError
from train.ipo.outputs import read_json


class PairSet(NamedTuple):
    """All pairs of a job, in the files' order."""

    safety: list[Pair]
    benign: list[Pair]
    files: dict[str, str]  # SHA-256 of each file by its path as given: the parents that a manifest names
    tokenizers: dict[str, str]  # SHA-256 of the tokenizer.json that a snapshot says it was made with, by file

    @property
    def digest(self) -> str:
        """SHA-256 over all files in order."""
        return hashlib.sha256("\n".join(self.files.values()).encode()).hexdigest()


def read_pairs(pairs: Sequence[Path], benign: Sequence[Path] = ()) -> PairSet:
    """Read all files. Raises IpoDataError that names the file and line."""
    found = PairSet([], [], {}, {})
    for path in (*pairs, *benign):
        content = _content(path)
        found.files[str(path)] = hashlib.sha256(content).hexdigest()
        if tokenizer := _snapshot(path, found.files[str(path)]).get("tokenizer_sha256"):
            found.tokenizers[str(path)] = tokenizer
        before = len(found.safety) + len(found.benign)
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            pair = _pair(path, number, line)
            if path in benign and pair.kind != "benign":
                raise IpoDataError(f"{path}:{number}: a {pair.kind} pair in data.benign; name its file in data.pairs")
            (found.benign if pair.kind == "benign" else found.safety).append(pair)
        if len(found.safety) + len(found.benign) == before:
            raise IpoDataError(f"{path} holds no pairs")
    return found


def check_tokenizers(found: PairSet, tokenizer_sha256: str | None) -> None:
    """Raises IpoDataError where a snapshot was made with another tokenizer than the model's."""
    for path, theirs in found.tokenizers.items():
        if theirs != tokenizer_sha256:
            raise IpoDataError(
                f"{path} was made with another tokenizer ({theirs[:12]}…) than the model's "
                f"({(tokenizer_sha256 or 'none')[:12]}…): pairs train only the model that they came from"
            )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise IpoDataError(f"cannot read pairs from {path}: {error.strerror}") from error


def _snapshot(path: Path, sha256: str) -> dict[str, Any]:
    """The manifest of the snapshot that a file belongs to; empty where it belongs to none."""
    manifest = path.with_name("manifest.json")
    if not manifest.exists():
        return {}
    try:
        said: dict[str, Any] = read_json(manifest)
    except ValueError as error:
        raise IpoDataError(f"{manifest} is no JSON object: {error}") from error
    if said.get("files", {}).get(path.name, sha256) != sha256:
        raise IpoDataError(f"{path} is not what {manifest} says: it was changed after the snapshot was frozen")
    return said


def _pair(path: Path, number: int, line: bytes) -> Pair:
    try:
        pair = Pair.model_validate_json(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "pair"
        raise IpoDataError(f"{path}:{number}: {where}: {first['msg']}") from error
    if pair.schema_version > PAIR_SCHEMA_VERSION:
        raise IpoDataError(f"{path}:{number}: pair schema {pair.schema_version} is newer than this program; update it")
    return pair
