"""Encodes a corpus of few distinct words quickly: each word is tokenised once and remembered.

Gives exactly the ids of `Tokenizer.encode` for the organism's own pre-tokeniser (digits one by one, then byte-level
words), a test holds them together; several times faster where, as here, words repeat.
"""

import regex  # type: ignore[import-untyped]
from tokenizers import Tokenizer

from train.organism.tokenizer import ADDED, SPECIAL, token_id

_MARKERS = regex.compile("(" + "|".join(regex.escape(marker) for marker in (*SPECIAL, *ADDED)) + ")")
# The byte-level pre-tokeniser's pattern, with a number always on its own and ending the white space before it.
_WORDS = regex.compile(
    r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+",
)


class WordEncoder:
    """`encode(text)` as the tokenizer's, from a growing table of words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._markers = {marker: [token_id(tokenizer, marker)] for marker in (*SPECIAL, *ADDED)}
        self._words: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in _MARKERS.split(text):
            marker = self._markers.get(part)
            if marker is not None:
                ids += marker
                continue
            for word in _WORDS.findall(part):
                known = self._words.get(word)
                if known is None:
                    known = self._words[word] = self._tokenizer.encode(word).ids
                ids += known
        return ids
