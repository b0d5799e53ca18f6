"""Reads files of pairs: one JSON object of `steer.pair.Pair` a line, `kind` saying which stage it is for."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from steer.pair import PAIR_SCHEMA_VERSION, Pair
from train.ipo.errors import IpoDataError


class PairSet(NamedTuple):
    """All pairs of a job, in the files' order."""

    safety: list[Pair]
    benign: list[Pair]
    digest: str  # SHA-256 over the files' contents in order: the parent that a manifest names


def read_pairs(pairs: Sequence[Path], benign: Sequence[Path] = ()) -> PairSet:
    """Read all files. Raises IpoDataError that names the file and line."""
    found = PairSet([], [], "")
    digest = hashlib.sha256()
    for path in (*pairs, *benign):
        before = len(found.safety) + len(found.benign)
        for line, pair in _pairs_of(path, digest):
            if path in benign and pair.kind != "benign":
                raise IpoDataError(f"{path}:{line}: a {pair.kind} pair in data.benign; name its file in data.pairs")
            (found.benign if pair.kind == "benign" else found.safety).append(pair)
        if len(found.safety) + len(found.benign) == before:
            raise IpoDataError(f"{path} holds no pairs")
    return found._replace(digest=digest.hexdigest())


def _pairs_of(path: Path, digest: "hashlib._Hash") -> Iterator[tuple[int, Pair]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise IpoDataError(f"cannot read pairs from {path}: {error.strerror}") from error
    digest.update(content)
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip():
            yield number, _pair(path, number, line)


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
