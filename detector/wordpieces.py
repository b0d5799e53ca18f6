"""Text to word-piece ids, remembering words: a verdict's text is mostly words that were met before.

A BERT tokenizer never looks across white space: it cleans and lowers characters one by one, splits at spaces and
punctuation, and cuts each word alone. So the ids of a text are those of its words, one after the other, and a table of
words answers in microseconds what costs the tokenizer a quarter of a millisecond a verdict. Ids are the same to the
last one; another kind of tokenizer is asked for the whole text each time.
"""

import re

from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

# Only what BERT's cleaning certainly turns into a space: it removes other control characters, and so joins what is
# beside them.
_WORD = re.compile(r"[^ \t\n\r]+")
# A trace of 5,000 tokens holds some 1,500 different words; 32,768 cost about 6 MB.
_MAX_WORDS = 1 << 15
# Longer ones are hardly met twice, and would let a client spend memory at will.
_MAX_CHARS = 32


class WordPieces:
    """The ids of texts, without special tokens. Safe to share between threads."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._is_bert = isinstance(tokenizer.normalizer, BertNormalizer) and isinstance(
            tokenizer.pre_tokenizer, BertPreTokenizer
        )
        self._known: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """The ids of `text`; exactly the tokenizer's own."""
        if not self._is_bert:
            return self._encode(text)
        known = self._known
        found: list[int] = []
        for word in _WORD.findall(text):
            ids = known.get(word)
            found += self._learn(word) if ids is None else ids
        return found

    def _learn(self, word: str) -> list[int]:
        ids = self._encode(word)
        if len(word) <= _MAX_CHARS:
            if len(self._known) >= _MAX_WORDS:
                self._known.clear()  # rare, and refilled within a few verdicts; no order to keep on every hit
            self._known[word] = ids
        return ids

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids
