"""Families of prompts: those that are kin stay on one side of a split, and count together against a cap.

A prompt's own family, where its source names one, is final. Other prompts are kin when they share most of their word
shingles (numbers and punctuation left out): found by MinHash, verified exactly, closed transitively. A prompt that is
kin to one of a named family joins it.
"""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from detector.context import message_text
from train.pairs.config import FamiliesConfig

# 32 bands of 2 rows: prompts that share half of their shingles meet in some band with a chance of 0.9999.
_BANDS, _ROWS = 32, 2
_PRIME = (1 << 61) - 1
_WORD = re.compile(r"[^\W\d_]+")


class Member(NamedTuple):
    """A prompt by its id."""

    id: str
    messages: Sequence[Mapping[str, Any]]
    family: str | None


def families(members: Sequence[Member], config: FamiliesConfig) -> dict[str, str]:
    """Family by prompt id."""
    groups = _Groups([member.family for member in members])
    by_name: dict[str, int] = {}
    for place, member in enumerate(members):
        if member.family is not None:
            groups.join(by_name.setdefault(member.family, place), place)
    shingles = [_shingles(member.messages, config.shingle) for member in members]
    for first, second in sorted(_near(shingles)):
        if _similarity(shingles[first], shingles[second]) >= config.similarity:
            groups.join(first, second)
    return {
        member.id: groups.name(place) or f"near-{members[groups.root(place)].id}"
        for place, member in enumerate(members)
    }


def is_validation(family: str, share: float, seed: int) -> bool:
    """Whether a family is kept for validation: by its name alone, so that it stays there in every later snapshot."""
    digest = hashlib.sha256(f"{seed}\x1f{family}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48 < share


class _Groups:
    """Union-find over places. Two groups that are named are never made one by what lies between them."""

    def __init__(self, names: Sequence[str | None]) -> None:
        self._parent = list(range(len(names)))
        self._names = list(names)

    def root(self, place: int) -> int:
        while self._parent[place] != place:
            self._parent[place] = self._parent[self._parent[place]]
            place = self._parent[place]
        return place

    def name(self, place: int) -> str | None:
        """The named family of the group, None where nothing in it is named."""
        return self._names[self.root(place)]

    def join(self, first: int, second: int) -> None:
        """The smaller root stays one."""
        a, b = sorted((self.root(first), self.root(second)))
        if self._names[a] is None or self._names[b] in (None, self._names[a]):
            self._parent[b] = a
            self._names[a] = self._names[a] or self._names[b]


def _shingles(messages: Sequence[Mapping[str, Any]], size: int) -> frozenset[int]:
    """Hashes of runs of `size` words of the user's and tools' turns."""
    text = "\n".join(message_text(m) for m in messages if m.get("role") in ("user", "tool"))
    words = [word.lower() for word in _WORD.findall(text)] or [text.strip()]
    size = min(size, len(words))
    runs = (" ".join(words[at : at + size]) for at in range(len(words) - size + 1))
    return frozenset(int.from_bytes(hashlib.blake2b(run.encode(), digest_size=7).digest(), "big") for run in runs)


def _near(shingles: Sequence[frozenset[int]]) -> set[tuple[int, int]]:
    """Pairs of places that meet in some band of their MinHash signatures."""
    rng = random.Random(0)
    hashes = [(rng.randrange(1, _PRIME), rng.randrange(_PRIME)) for _ in range(_BANDS * _ROWS)]
    buckets: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, values in enumerate(shingles):
        signature = [min((a * value + b) % _PRIME for value in values) for a, b in hashes]
        for band in range(_BANDS):
            buckets[(band, *signature[band * _ROWS : (band + 1) * _ROWS])].append(place)
    # Neighbours in a bucket are enough: kinship is closed transitively, and a bucket of thousands stays linear.
    return {pair for places in buckets.values() for pair in pairwise(places)}


def _similarity(first: frozenset[int], second: frozenset[int]) -> float:
    return len(first & second) / len(first | second)
