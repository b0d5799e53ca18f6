"""Disguises undone: text as a reader of plain English would have it. The only entry to the `fold_*` modules.

Rules kept here:
1. Plain ASCII English comes back as it is, and fast: a few cheap searches decide that there is nothing to undo.
2. Only what can be undone exactly is: look-alike letters, invisible characters, spelt-out words, digits for letters,
   codes that a model reads at sight. What decodes to no English stays (mathematics, source code, ids, other languages).
3. Idempotent up to layers: a code inside a code is undone to a fixed depth, so the cost is bounded.
Letter case and accents are the tokenizer's matter. A change to what plain text becomes changes the input format
(`detector.context`).
"""

import re

from detector import fold_codes, fold_spelling
from detector.fold_letters import plain_letters
from detector.fold_words import words

_MAX_LAYERS = 3
_WORD = re.compile("[a-z]+")
_MIXED_CASE = re.compile("[a-z][A-Z]")
_SIGNS = frozenset("0123456789@$!|+\\%&=€")
_LONG_WORD = 16


def fold(text: str) -> str:
    """`text` without its disguise; plain English comes back as it is."""
    if not text.isascii():
        text = plain_letters(text)
    for _ in range(_MAX_LAYERS):
        before = text
        text = _layer_undone(text)
        if text == before:
            break
    return text


def _layer_undone(text: str) -> str:
    if fold_spelling.SPACED.search(text):
        text = fold_spelling.unspace(text)
    has_signs = not _SIGNS.isdisjoint(text)
    known, found = words(), set(_WORD.findall(text.lower()))
    strange = found - known.all
    if not strange and not has_signs:
        return text
    if (has_signs and fold_codes.CODED.search(text)) or _MIXED_CASE.search(text):
        text = fold_codes.decode_fragments(text)
    if has_signs and fold_spelling.LEET.search(text):
        text = fold_spelling.unleet(text)
    if any(len(word) >= _LONG_WORD for word in strange):
        text = fold_spelling.unglue(text)
    if 2 * len(strange) > len(found) or not known.rot13.isdisjoint(strange) or not known.reversed.isdisjoint(strange):
        text = fold_codes.unshift(text)
    return text
