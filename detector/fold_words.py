"""What counts as English when a disguise is undone: known words, words without gaps, readable text.

The words are those of a general vocabulary in order of frequency (`words.txt`), so that nothing here depends on the
artifact. Everything is lower case, ASCII letters only. Loaded at the first text that looks disguised.
"""

import math
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

_FILE = Path(__file__).parent / "words.txt"
_WORD = re.compile(r"[a-z]+")
_ENDINGS = ("s", "es", "ed", "d", "ing", "ly", "er", "ers", "r")
_LONGEST = 20
# In nats. A word costs the logarithm of its rank; a letter outside all words costs more than any word spends on one.
_UNKNOWN_LETTER, _UNKNOWN_START = 4.0, 6.0
# English spends 1.2 to 1.6 nats a letter, random letters above 2.2 (short fragments fit by chance).
_ENGLISH_COST = 1.9
_MIN_LETTERS = 5


class Words(NamedTuple):
    """`cost` of each word in nats; `all` the words; `rot13` and `reversed`: what they become, where that is no word."""

    cost: dict[str, float]
    all: frozenset[str]
    rot13: frozenset[str]
    reversed: frozenset[str]


_LOWER = "abcdefghijklmnopqrstuvwxyz"
_SHIFTS = [
    str.maketrans(_LOWER + _LOWER.upper(), (_LOWER[by:] + _LOWER[:by]) + (_LOWER[by:] + _LOWER[:by]).upper())
    for by in range(26)
]


@cache
def words() -> Words:
    lines = _FILE.read_text(encoding="utf-8").splitlines()
    ranked = [line for line in lines if not line.startswith("#")]
    every = frozenset(ranked)
    long = [word for word in ranked if len(word) > 2]
    return Words(
        cost={word: math.log(rank + 12) for rank, word in enumerate(ranked)},
        all=every,
        rot13=frozenset(shifted(word, 13) for word in long) - every,
        reversed=frozenset(word[::-1] for word in long) - every,
    )


def is_word(word: str) -> bool:
    """Whether `word`, in lower case, is known, or is a known word with an English ending."""
    known = words().all
    if word in known:
        return True
    for ending in _ENDINGS:
        stem = word.removesuffix(ending)
        if len(stem) > 2 and stem != word and (stem in known or (stem + "e" in known and ending in ("ing", "ed"))):
            return True
    return False


def shifted(text: str, by: int) -> str:
    """ASCII letters moved `by` places along the alphabet."""
    return text.translate(_SHIFTS[by % 26])


def split(letters: str) -> list[str] | None:
    """Lower-case `letters` cut into words at the least cost; None where that isn't English. Time: 20 x length."""
    if len(letters) < _MIN_LETTERS:
        return None
    cost_of = words().cost
    best = [0.0] + [math.inf] * len(letters)
    start = [0] * (len(letters) + 1)
    in_unknown = [False] * (len(letters) + 1)
    for end in range(1, len(letters) + 1):
        previous = end - 1
        best[end] = best[previous] + _UNKNOWN_LETTER + (0.0 if in_unknown[previous] else _UNKNOWN_START)
        start[end], in_unknown[end] = previous, True
        for begin in range(max(0, end - _LONGEST), end):
            word_cost = cost_of.get(letters[begin:end])
            if word_cost is not None and best[begin] + word_cost < best[end]:
                best[end], start[end], in_unknown[end] = best[begin] + word_cost, begin, False
    if best[-1] > _ENGLISH_COST * len(letters) + 2.0:
        return None
    return _path(letters, start, in_unknown)


def _path(letters: str, start: list[int], in_unknown: list[bool]) -> list[str]:
    pieces: list[str] = []
    end, unknown_end = len(letters), None
    while end > 0:
        begin = start[end]
        if in_unknown[end]:
            unknown_end = end if unknown_end is None else unknown_end
            if begin == 0 or not in_unknown[begin]:
                pieces.append(letters[begin:unknown_end])
                unknown_end = None
        else:
            pieces.append(letters[begin:end])
        end = begin
    return pieces[::-1]


def is_readable(text: str, min_letters: int = 4, min_known: float = 0.6) -> bool:
    """Whether `text` reads as English prose: mostly letters and spaces, most letters in known words."""
    if not text.isascii() or any(char < " " and char not in "\n\t\r" for char in text):
        return False
    found = _WORD.findall(text.lower())
    letters = sum(map(len, found))
    plain = letters + text.count(" ")
    if plain < 0.75 * len(text) or len(found) > 0.5 * letters:
        return False
    known = sum(len(word) for word in found if len(word) > 1 and is_word(word))
    return known >= min_letters and known >= min_known * letters
