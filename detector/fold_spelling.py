"""Words spelt to be overlooked: s p a c e d or d.o.t.t.e.d letters, lost gaps, l33t digits.

Rules kept here: nothing changes unless what results is English (`detector.fold_words`), so that variables in a row,
formulas, identifiers, names of substances and ordinals stay; a disguise that leaves word gaps is undone by them, one
that does not by the cheapest cut into words.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise, product

from detector.fold_words import is_readable, is_word, split

_LEET = {
    "0": "o", "1": "il", "2": "z", "3": "e", "4": "a", "5": "s", "6": "gb", "7": "t", "8": "b", "9": "g",
    "@": "a", "$": "s", "!": "il", "|": "li", "+": "t", "€": "e",
}  # fmt: skip
_ANY = r"[^\W_]|[@$!|+€]"
# Single letters with the same kind of gap between them; at least four, as initials seldom are.
_SPACED = re.compile(rf"(?<![^\W_])(?:{_ANY})(?:[^\w@$|+€]{{1,6}}(?:{_ANY})(?![^\W_])|_(?:{_ANY})(?![^\W_])){{3,}}")
SPACED = re.compile(r"(?<![^\W_])[^\W_@$](?:[\W_]{1,6}[^\W_](?![^\W_])){3}")
_MIN_LETTERS = 5
_GLUED = re.compile(r"(?<![\w/.#@])(?:[a-z]{16,}|[A-Z]{16,})(?![\w/.(@])")
_MIN_GLUED_WORDS = 5

LEET = re.compile(r"[A-Za-z][0-9@$!|+€]+[A-Za-z]|(?<![\w.])[0-9@$|+€]+[A-Za-z]{2}")
_TOKEN = re.compile(r"[A-Za-z0-9@$!|+€]+")
_RUNS = re.compile("[a-z]+|[^a-z]+")
_LEET_CHAR = re.compile(r"[0-9@$!|+€]")
_LETTERS = re.compile(r"[A-Za-z]")
_MAX_READINGS = 16
_LONGEST_LEET = 20
# What digits and signs alone, or with one letter, may stand for in a text that is plainly spelt so.
_LITTLE = frozenset({
    "a", "i", "to", "it", "is", "as", "at", "so", "of", "in", "on", "or", "an", "if", "do", "go", "no", "me", "we",
    "he", "be", "us",
})  # fmt: skip
_LONGEST_LITTLE = 2


def unspace(text: str) -> str:
    """Spelt-out words put together again."""
    return _SPACED.sub(_joined, text)


def unglue(text: str) -> str:
    """Sentences without gaps cut into words; long words stay."""
    return _GLUED.sub(_cut, text)


def unleet(text: str) -> str:
    """Digits and signs in words made letters, where the words are then English.

    A word with a digit inside is plain evidence; what might be a number, an ordinal or a unit is read as letters only
    in a text that has shown such evidence twice.
    """
    readings = {token: reading for token in set(_TOKEN.findall(text)) if (reading := _reading(token)) is not None}
    strong = [token for token, word in readings.items() if _is_plain_evidence(token, word)]
    if not strong:
        return text
    is_leet = len(strong) >= 2
    keep = set(strong)

    def read(match: re.Match[str]) -> str:
        token = match[0]
        if token in keep or (is_leet and token in readings):
            tail = len(token) - len(token.rstrip("!"))
            return readings[token] + token[len(token) - tail :]
        return _little(token) if is_leet and len(token) <= _LONGEST_LITTLE else token

    return _TOKEN.sub(read, text)


def _joined(match: re.Match[str]) -> str:
    run = match[0]
    singles = list(re.finditer(_ANY, run))
    letters = sum(item[0].isalpha() for item in singles)
    if letters < _MIN_LETTERS or letters < 0.5 * len(singles):
        return run
    gaps = [run[a.end() : b.start()] for a, b in pairwise(singles)]
    usual = Counter(gaps).most_common(1)[0][0]
    groups, between = [singles[0][0]], [""]
    for gap, item in zip(gaps, singles[1:], strict=True):
        if gap == usual:
            groups[-1] += item[0]
        else:
            between.append(_kept(gap, usual))
            groups.append(item[0])
    words = [_words_of(group) for group in groups]
    # Gaps that separate words are evidence in themselves, so that a rare word beside a known one may be one.
    min_known = 0.7 if len(groups) == 1 or len(singles) < 3 * len(groups) else 0.15
    if not is_readable(" ".join(words), min_letters=3, min_known=min_known):
        return run
    return "".join(gap + word for gap, word in zip(between, words, strict=True))


def _kept(gap: str, usual: str) -> str:
    """What stands for a wider gap: its punctuation, and a space."""
    rest = gap.strip()
    return " " if not rest or (rest == usual.strip() and rest not in ".!?") else (rest + " ")


def _words_of(group: str) -> str:
    """`group` as a word if it is one, however spelt, else cut into words where it can be."""
    lower = group.lower()
    if is_word(lower):
        return group
    word = _reading(group)
    if word is not None:
        return word
    return " ".join(word for run in _RUNS.findall(lower) for word in (split(run) if run.isalpha() else None) or [run])


def _cut(match: re.Match[str]) -> str:
    letters = match[0].lower()
    if is_word(letters):
        return match[0]
    pieces = split(letters)
    if pieces is None or len(pieces) < _MIN_GLUED_WORDS or not all(is_word(piece) for piece in pieces):
        return match[0]
    return " ".join(pieces)


def _little(token: str) -> str:
    if not _LEET_CHAR.search(token):
        return token
    return next((word for word in _readings(token.lower()) if word in _LITTLE), token)


def _reading(token: str) -> str | None:
    """The English word that a token with digits or signs in it spells; None where there is none."""
    body = token.lower().rstrip("!")
    if len(body) > _LONGEST_LEET or not _LEET_CHAR.search(body) or not _LETTERS.search(body):
        return None
    return next((word for word in islice(_readings(body), _MAX_READINGS) if is_word(word)), None)


def _readings(body: str) -> Iterator[str]:
    return ("".join(chars) for chars in product(*(_LEET.get(char, char) for char in body)))


def _is_plain_evidence(token: str, word: str) -> bool:
    """Four letters or more, one of them a digit or sign inside or in front that no number, ordinal or unit explains."""
    body = token.rstrip("!")
    marks = [at for at, char in enumerate(body) if _LEET_CHAR.match(char)]
    letters = len(body) - len(marks)
    is_inside = marks[0] < len(body) - 1 and (marks[0] > 0 or len(word) > 3)
    is_count = re.fullmatch(r"\d+[A-Za-z]{1,3}", body) is not None
    return len(word) > 3 and letters >= 1 and is_inside and not is_count
