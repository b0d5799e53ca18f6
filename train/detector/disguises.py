"""Disguises of a text, with where each character went: what a rude user does to a request, or tells the model to do.

Pure functions of a text and a random generator. Each gives a `Disguised`: the new text and, for every character of the
old one, where it starts in the new. `REVERSIBLE` can be undone exactly from the text alone; the others lose something.
Used to teach (`train.detector.augment`) and to attack (`benchmarks.bench_evasion`). The tables are this file's own, not
those that `detector.fold` undoes with, so that the attack isn't the defence read backwards.
"""

import base64
import codecs
import random
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Disguised(NamedTuple):
    """`text`, and `starts` [characters of the old text + 1]: where each begins in `text`; the last is its end."""

    text: str
    starts: tuple[int, ...]

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where the old characters [start, end) are now."""
        return self.starts[start], self.starts[end]


Disguise = Callable[[str, random.Random], Disguised]

_ALIKE = {
    "a": "аɑα", "c": "сϲ", "d": "ԁ", "e": "еҽ", "g": "ɡ", "h": "һհ", "i": "іι", "j": "ј", "k": "к", "l": "ӏ", "m": "м",
    "n": "ո", "o": "оοօ", "p": "рρ", "q": "ԛ", "r": "г", "s": "ѕ", "t": "т", "u": "υս", "v": "ѵν", "w": "ԝ", "x": "хχ",
    "y": "уү", "A": "АΑ", "B": "ВΒ", "C": "СϹ", "E": "ЕΕ", "H": "НΗ", "I": "ІΙ", "K": "КΚ", "M": "МΜ", "N": "Ν",
    "O": "ОΟ", "P": "РΡ", "S": "Ѕ", "T": "ТΤ", "W": "Ԝ", "X": "ХΧ", "Y": "ΥҮ", "Z": "Ζ",
}  # fmt: skip
_STYLES = (0x1D5D4, 0x1D4D0, 0x1D670, 0xFF21)  # sans bold, script bold, monospace, full-width: capital A of each
_FULL_WIDTH = 0xFF21
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"
_LEET = {"a": "4", "e": "3", "i": "1", "o": "0", "s": "5", "t": "7"}
_SIGN_LEET = {**_LEET, "a": "@", "i": "!", "s": "$", "b": "8", "g": "9"}
_WORD = re.compile(r"\S+")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+(?!\S)|\n|\Z|[.!?]+)")
_MIN_FRAGMENT_CHARS = 6
_BESIDE = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wqrtyuiopisdfghjklkxzvbnmn", strict=True))  # on a keyboard


def built(pieces: Iterable[tuple[int, str]]) -> Disguised:
    """From (number of old characters, what became of them); inside longer pieces characters are spread evenly."""
    out: list[str] = []
    starts: list[int] = []
    at = 0
    for size, new in pieces:
        starts += [at + len(new) * index // size for index in range(size)]
        out.append(new)
        at += len(new)
    return Disguised("".join(out), (*starts, at))


def plain(text: str, rng: random.Random) -> Disguised:
    return built((1, char) for char in text)


def homoglyph(text: str, rng: random.Random) -> Disguised:
    """Half of the letters from Cyrillic, Greek or Armenian; every fifth word wholly in a letter style of Unicode."""
    pieces: list[tuple[int, str]] = []
    for word in _words(text):
        if rng.random() < 0.2:
            pieces += [(1, _styled(char, base)) for base in [rng.choice(_STYLES)] for char in word]
        else:
            pieces += [(1, rng.choice(_ALIKE[c]) if c in _ALIKE and rng.random() < 0.5 else c) for c in word]
    return built(pieces)


def zero_width(text: str, rng: random.Random) -> Disguised:
    """After three of ten characters inside words something invisible."""
    return built((1, char + rng.choice(_INVISIBLE) if char.isalpha() and rng.random() < 0.3 else char) for char in text)


def marks(text: str, rng: random.Random) -> Disguised:
    """Zalgo: up to three combining marks on every other letter."""
    mark = [chr(code) for code in range(0x0300, 0x0340)]
    return built(
        (1, char + "".join(rng.choices(mark, k=rng.randint(1, 3))) if char.isalpha() and rng.random() < 0.5 else char)
        for char in text
    )


def spacing(text: str, rng: random.Random) -> Disguised:
    """h o w  t o, h.o.w t.o or h-o-w t-o: letters apart, words further apart."""
    sign, gap = rng.choice(((" ", "  "), (".", " "), ("-", " "), ("_", " ")))
    return _spaced(text, sign, gap)


def spacing_without_gaps(text: str, rng: random.Random) -> Disguised:
    """h o w t o: nothing says where a word ends."""
    return _spaced(text, " ", " ")


def leetspeak(text: str, rng: random.Random) -> Disguised:
    """Four of five letters that have a digit replaced by it, in one of two alphabets."""
    return _leet(text, rng, 0.8)


def partial_leet(text: str, rng: random.Random) -> Disguised:
    """A few letters."""
    return _leet(text, rng, 0.2)


def alternating_case(text: str, rng: random.Random) -> Disguised:
    return built((1, rng.choice((char.upper(), char.lower()))) for char in text)


def base64_fragment(text: str, rng: random.Random) -> Disguised:
    """About half of each sentence, in one piece."""
    return _fragments(text, rng, lambda part: base64.b64encode(part.encode()).decode())


def hex_fragment(text: str, rng: random.Random) -> Disguised:
    return _fragments(text, rng, lambda part: part.encode().hex())


def rot13_fragment(text: str, rng: random.Random) -> Disguised:
    return _fragments(text, rng, lambda part: codecs.encode(part, "rot13"))


def reversed_fragment(text: str, rng: random.Random) -> Disguised:
    return _fragments(text, rng, lambda part: part[::-1])


def typos(text: str, rng: random.Random) -> Disguised:
    """In every third longer word a letter dropped, doubled, swapped with the next or hit beside."""
    pieces: list[tuple[int, str]] = []
    for word in _words(text):
        at = rng.randrange(1, len(word) - 1) if len(word) > 3 and rng.random() < 0.35 else -1
        pieces += _mistyped(word, at, rng) if at > 0 and word[at].isalpha() else [(1, char) for char in word]
    return built(pieces)


def stacked(text: str, rng: random.Random) -> Disguised:
    """Digits, then look-alike letters, then invisible characters."""
    result = leetspeak(text, rng)
    for change in (homoglyph, zero_width):
        after = change(result.text, rng)
        result = Disguised(after.text, tuple(after.starts[start] for start in result.starts))
    return result


REVERSIBLE: dict[str, Disguise] = {
    "homoglyph": homoglyph,
    "zero_width": zero_width,
    "marks": marks,
    "spacing": spacing,
    "spacing_without_gaps": spacing_without_gaps,
    "leetspeak": leetspeak,
    "case": alternating_case,
    "base64": base64_fragment,
    "hex": hex_fragment,
    "rot13": rot13_fragment,
    "reversed": reversed_fragment,
    "stacked": stacked,
}


def _words(text: str) -> list[str]:
    """Words and what is between them, alternately: together they are the text."""
    return re.findall(r"\w+|\W+", text)


def _styled(char: str, base: int) -> str:
    if not (char.isascii() and char.isalpha()):
        return char
    small = 32 if base == _FULL_WIDTH else 26
    return chr(base + ord(char) - 65) if char.isupper() else chr(base + small + ord(char) - 97)


def _spaced(text: str, sign: str, gap: str) -> Disguised:
    pieces = []
    for char, following in zip(text, [*text[1:], "\n"], strict=False):
        if char == " ":
            pieces.append((1, gap))
        else:
            pieces.append((1, char + sign if char.isalnum() and following.isalnum() else char))
    return built(pieces)


def _leet(text: str, rng: random.Random, share: float) -> Disguised:
    table = _LEET if rng.random() < 0.7 else _SIGN_LEET
    return built((1, table[c.lower()] if c.lower() in table and rng.random() < share else c) for c in text)


def _fragments(text: str, rng: random.Random, encode: Callable[[str], str]) -> Disguised:
    """About half of the words of each sentence, a run of them, encoded."""
    pieces: list[tuple[int, str]] = []
    at = 0
    for sentence in _SENTENCE.finditer(text):
        words = list(_WORD.finditer(text, sentence.start(), sentence.end()))
        count = max(1, round(len(words) * rng.uniform(0.35, 0.65)))
        first = rng.randrange(len(words) - count + 1) if words else 0
        if not words:
            continue
        start, end = words[first].start(), words[first + count - 1].end()
        end = max(start, end - (len(text[start:end]) - len(text[start:end].rstrip(".!?,;:"))))
        if end - start >= _MIN_FRAGMENT_CHARS:
            pieces += [*((1, char) for char in text[at:start]), (end - start, encode(text[start:end]))]
            at = end
    return built([*pieces, *((1, char) for char in text[at:])])


def _mistyped(word: str, at: int, rng: random.Random) -> list[tuple[int, str]]:
    singles = [(1, char) for char in word]
    kind = rng.randrange(4)
    if kind == 0:
        singles[at] = (1, "")
    elif kind == 1:
        singles[at] = (1, word[at] * 2)
    elif kind == 2:
        singles[at : at + 2] = [(2, word[at + 1] + word[at])]
    else:
        singles[at] = (1, _BESIDE.get(word[at].lower(), word[at]))
    return singles
