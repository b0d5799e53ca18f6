"""Fragments in a code that a model reads at sight: base64, base32, hex, binary, escapes, shifted or reversed letters.

Rules kept here: a fragment is replaced only where what it decodes to is readable English (`detector.fold_words`), so
that hashes, ids, keys, numbers, links and source code stay. A fragment cut anywhere is decoded as far as it goes: the
segmenter cuts codes as it cuts any text without spaces. Nothing is decoded more often than `fold` asks.
"""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Literal

from detector.fold_words import is_readable, is_word, shifted, words

# Cheap signs of a code: mixed case or digits inside a long word, or escapes. Ordinary prose has none of them.
CODED = re.compile(
    r"[a-z0-9][A-Z][A-Za-z0-9]|[A-Za-z][0-9][A-Za-z0-9]|[0-9][a-f][0-9]|[A-Z2-7]{16}|[01]{8}"
    r"|[0-9]{2}[ ,]{1,2}[0-9]{2,3}[ ,]|[\\%&][#ux0-9]"
)

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{6,}={0,2}(?![A-Za-z0-9+/_=])")
_BASE32 = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}={0,6}(?![A-Za-z0-9])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?[0-9A-Fa-f]{10,}(?![0-9A-Za-z])")
_HEX_LIST = re.compile(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{2}(?:[ ,:][0-9A-Fa-f]{2}){4,}(?![0-9A-Za-z])")
_DECIMALS = re.compile(r"(?<!\d)\d{2,3}(?:[ ,]{1,2}\d{2,3}){4,}(?!\d)")
_BINARY = re.compile(r"(?<!\d)[01]{7,8}(?:[ ,]?[01]{7,8}){3,}(?!\d)")
_ESCAPES = re.compile(
    r"\\u00([2-7][0-9A-Fa-f])|\\x([2-7][0-9A-Fa-f])|%([2-7][0-9A-Fa-f])|&#x([2-7][0-9A-Fa-f]);|&#(\d{2,3});"
)
_MIN_ESCAPES = 4
_URL_WORDS = re.compile(r"(?<![\w/=&?%])[A-Za-z,.']+(?:%20[A-Za-z,.']+)+(?:%3[Ff])?")
_MAX_CODED = 4096  # characters; the texts given are shorter
_LONG_CODE = 16  # from here on a code may have been cut, and is tried at every alignment

_RUN_WORD = re.compile(r"[A-Za-z]+")
# Letters in words that are English only when decoded; of abbreviations alone it takes more.
_LONG_WORD, _MIN_CODED_LETTERS = 5, 8
_ABBREVIATION, _MANY_LETTERS = 3, 15
_MAX_GAP = 3  # from one coded word to the next: those between could be either
_MIN_FOREIGN_WORDS = 4


def decode_fragments(text: str) -> str:
    """Codes that stand for English replaced by it."""
    text = _unescaped(text)
    text = _HEX.sub(lambda match: _from_hex(match[0].removeprefix("0x")) or match[0], text)
    text = _HEX_LIST.sub(lambda match: _from_hex(re.sub("[ ,:]", "", match[0])) or match[0], text)
    text = _BINARY.sub(lambda match: _from_numbers(re.findall("[01]{8}", match[0]), 2) or match[0], text)
    text = _DECIMALS.sub(lambda match: _from_numbers(re.findall(r"\d+", match[0]), 10) or match[0], text)
    text = _BASE32.sub(lambda match: _from_base32(match[0]) or match[0], text)
    return _BASE64.sub(lambda match: _from_base64(match[0]) or match[0], text)


def unshift(text: str) -> str:
    """Runs of words in rot13, or reversed, or a text shifted as a whole, put right."""
    found = list(_RUN_WORD.finditer(text))
    lower = [match[0].lower() for match in found]
    known = words()
    if not known.rot13.isdisjoint(lower):
        text = _put_right(text, found, known.rot13, lambda code: shifted(code, 13))
    if not known.reversed.isdisjoint(lower):
        text = _put_right(text, found, known.reversed, _backwards)
    if len(lower) >= _MIN_FOREIGN_WORDS and 3 * sum(word in known.all for word in lower) < len(lower):
        return next((moved for by in range(1, 26) if is_readable(moved := shifted(text, by), 8, 0.8)), text)
    return text


def _unescaped(text: str) -> str:
    letters = sum(_char(match).isalpha() for match in _ESCAPES.finditer(text))
    if letters >= _MIN_ESCAPES:
        return _ESCAPES.sub(_char, text)
    return _URL_WORDS.sub(lambda match: match[0].replace("%20", " ").replace("%3F", "?").replace("%3f", "?"), text)


def _char(match: re.Match[str]) -> str:
    decimal = match[5]
    code = int(decimal) if decimal else int(next(group for group in match.groups() if group), 16)
    return chr(code) if 32 <= code < 127 else match[0]


def _from_base64(code: str) -> str | None:
    plain = code.rstrip("=").replace("-", "+").replace("_", "/")[:_MAX_CODED]
    if plain.islower() or (plain.isupper() and len(plain) < _LONG_CODE):
        return None  # a word or a name
    for offset in range(4 if len(plain) >= _LONG_CODE else 1):
        body = plain[offset:]
        if len(body) % 4 == 1:
            body = body[:-1]  # six bits of a character that was cut off
        text = _english(base64.b64decode(body + "=" * (-len(body) % 4)))
        if text is not None:
            return text
    return None


def _from_base32(code: str) -> str | None:
    plain = code.rstrip("=")
    plain = plain[: len(plain) // 8 * 8] if len(plain) % 8 in (1, 3, 6) else plain
    try:
        return _english(base64.b32decode(plain + "=" * (-len(plain) % 8)))
    except binascii.Error:
        return None


def _from_hex(code: str) -> str | None:
    for offset in (0, 1):
        body = code[offset:]
        text = _english(bytes.fromhex(body[: len(body) // 2 * 2]))
        if text is not None:
            return text
    return None


def _from_numbers(codes: list[str], base: int) -> str | None:
    numbers = [int(code, base) for code in codes]
    return _english(bytes(numbers)) if all(number < 127 for number in numbers) else None


def _english(data: bytes) -> str | None:
    """`data` as text if it is readable English; a character cut off at either end is forgiven."""
    for part in (data, data[1:], data[:-1]):
        if part.isascii():
            text = part.decode("ascii")
            is_code = _BASE64.fullmatch(text) is not None and _from_base64(text) is not None
            return text if is_code or is_readable(text) or is_readable(unshift(text)) else None
    return None


def _backwards(code: str) -> str:
    """The letters of each word reversed, and the words too, unless a capital at a word's end shows where it began."""
    found = _RUN_WORD.findall(code)
    if len(found[0]) > 1 and found[0][-1].isupper() and found[0][0].islower():
        return _RUN_WORD.sub(lambda match: match[0][::-1], code)
    return code[::-1]


def _put_right(text: str, found: list[re.Match[str]], marks: frozenset[str], decode: Callable[[str], str]) -> str:
    """Runs of words in a code, told by unknown words that are in `marks`, decoded where the evidence is enough."""
    states = [_state(match, text, marks, decode) for match in found]
    pieces, at, index = [], 0, 0
    while index < len(found):
        if states[index] != "sure":
            index += 1
            continue
        first = last = index
        while first > 0 and states[first - 1] == "likely" and found[first - 1].start() >= at:
            first -= 1
        end = index + 1
        while end < len(found) and end - last <= _MAX_GAP and states[end] != "identifier":
            last = end if states[end] in ("sure", "likely") else last
            end += 1
        if _is_enough({found[i][0].lower() for i in range(first, last + 1) if states[i] == "sure"}):
            start, stop = found[first].start(), found[last].end()
            pieces += [text[at:start], decode(text[start:stop])]
            at = stop
        index = last + 1
    return "".join(pieces) + text[at:]


_State = Literal["sure", "likely", "plain", "identifier"]


def _state(match: re.Match[str], text: str, marks: frozenset[str], decode: Callable[[str], str]) -> _State:
    """What a word is: surely coded, likely (unknown, known when decoded), plain, or a part of an identifier."""
    word = match[0].lower()
    around = text[max(0, match.start() - 1) : match.start()] + text[match.end() : match.end() + 1]
    if any(char == "_" or char.isdigit() for char in around):
        return "identifier"
    if is_word(word):
        return "plain"
    if word in marks:
        return "sure"
    return "likely" if is_word(decode(word)) else "plain"


def _is_enough(coded: set[str]) -> bool:
    """One long word is never coded by accident; short ones must be several, as names and abbreviations abound."""
    longest, letters = max(map(len, coded)), sum(map(len, coded))
    return longest >= _LONG_WORD or letters >= (_MIN_CODED_LETTERS if longest > _ABBREVIATION else _MANY_LETTERS)
