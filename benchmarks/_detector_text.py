"""Text that the detector's benchmark reads: of our own by default, with the shape of real reasoning, or a trace file.

Our own has the sentence lengths of reasoning models (quantiles below, in tokens, of 2,402 sentences as
`steer.segmenter` cuts them) and words in Zipf's order from the artifact's own vocabulary, so that remembered words are
met as often as in English. It means nothing: a score's cost does not depend on what is said.
"""

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

_SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
_SENTENCE_TOKENS = (2, 5, 11, 16, 23, 29, 33, 45, 71)
# Punctuation and words of several pieces bring prose to this many tokens a word in a vocabulary of this kind.
_TOKENS_PER_WORD = 1.2
# Other pieces of one or two letters are no words, and text of single letters is a disguise to `detector.fold`.
_SHORT = frozenset(("a", "as", "be", "by", "if", "in", "is", "it", "no", "of", "on", "or", "so", "to", "up", "we"))
# With these, 18 % of the words of a trace were not met before in the process; of real traces 14 % (after a hundred).
_ZIPF = 1.2
_COMMA_SHARE, _COMPOUND_SHARE, _NUMBER_SHARE = 0.05, 0.02, 0.015


class Trace(NamedTuple):
    prompt: str
    reasoning: str


class Prose:
    """Sentences of random words; the same seed, the same text."""

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        ordered = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        self._words = [
            piece for piece, _ in ordered if piece.isascii() and piece.isalpha() and (len(piece) > 2 or piece in _SHORT)
        ]
        self._weights = np.cumsum((np.arange(len(self._words)) + 2.7) ** -_ZIPF).tolist()
        self._rng = random.Random(seed)

    def text(self, tokens: int) -> str:
        """About `tokens` tokens."""
        sentences = []
        while tokens > 0:
            wanted = min(tokens, round(float(np.interp(self._rng.random(), _SHARES, _SENTENCE_TOKENS))))
            sentences.append(self._sentence(wanted))
            tokens -= max(2, wanted)
        return " ".join(sentences)

    def _sentence(self, tokens: int) -> str:
        count = max(1, round((tokens - 1) / _TOKENS_PER_WORD))
        words = self._rng.choices(self._words, cum_weights=self._weights, k=count)
        return (" ".join(map(self._varied, words)).capitalize() + ".").replace(",.", ".")

    def _varied(self, word: str) -> str:
        chance = self._rng.random()
        if chance < _NUMBER_SHARE:
            return str(self._rng.randint(0, 999))
        if chance < _NUMBER_SHARE + _COMPOUND_SHARE:
            return f"{word}-{self._rng.choice(self._words)}"
        return f"{word}," if chance < _NUMBER_SHARE + _COMPOUND_SHARE + _COMMA_SHARE else word


def read_traces(path: Path, seed: int) -> Iterator[Trace]:
    """Traces of a JSONL or JSONL.gz file, `{"prompt", "reasoning", ...}` a line, shuffled."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    records = [json.loads(line) for line in text.split("\n") if line.strip()]
    random.Random(seed).shuffle(records)
    for record in records:
        yield Trace(record["prompt"], record["reasoning"])
