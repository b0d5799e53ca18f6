"""A small deterministic byte-level BPE tokenizer for the scripted upstream and the tests that check it id by id.

Rules kept here: nothing is trained or read, the merges are spelt out by a word list, so every process has the same
ids; any text round-trips; think and tool markers are one ordinary token each, turn markers are special; bytes outside
the word list are single tokens, so that characters of several bytes are split between tokens, as in real tokenizers.
"""

import codecs
from collections.abc import Sequence
from functools import lru_cache

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

THINK_START, THINK_END = "<think>", "</think>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
_MARKERS = (THINK_START, THINK_END, "<tool_call>", "</tool_call>")

_WORDS = "".join(
    [
        "the of and to in is that it for as with was on are this be by not or an at from we you have but they ",
        "what which their will would can could should need make think about because user asks asking want ",
        "request question answer help first then next so okay wait let me think step check number time day ",
        "people thing way good safe safety harm instead really might also more than only some other here ",
        "there when where who how why them these those into over after before writing write explain give list ",
        "short long simple clear plan sure right wrong point start end two three four five six seven eight ",
        "nine ten bread train garden sea letter story city water light word sentence problem idea reason ",
        "information provide consider careful maybe another different important understand detail details ",
        "something anything nothing ",
    ]
).split()


def _build() -> tuple[dict[str, int], list[tuple[str, str]]]:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: id for id, piece in enumerate(alphabet)}
    merges: list[tuple[str, str]] = []
    for word in sorted(_WORDS, key=lambda word: (-len(word), word)):  # longest first, or short words break them up
        for spelt in ("Ġ" + word, word, "Ġ" + word.capitalize(), word.capitalize()):
            left = spelt[0]
            for right in spelt[1:]:
                if left + right not in vocabulary:
                    vocabulary[left + right] = len(vocabulary)
                    merges.append((left, right))
                left += right
    return vocabulary, merges


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """The shared tokenizer; `.save(path)` makes the tokenizer.json that a proxy can be given."""
    vocabulary, merges = _build()
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(text, special=False, normalized=False) for text in _MARKERS])
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (TURN_START, TURN_END)])
    return made


def encode(text: str) -> list[int]:
    """Token ids of a text, markers included."""
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


def decode(ids: Sequence[int]) -> str:
    """Text of token ids, markers and turn markers included."""
    return b"".join(token_bytes(id) for id in ids).decode("utf-8", "replace")


def marker_id(marker: str) -> int:
    """The id of a marker of this tokenizer."""
    id = tokenizer().token_to_id(marker)
    assert id is not None, marker
    return int(id)


@lru_cache(maxsize=1)
def _byte_values() -> dict[str, int]:
    """The inverse of byte-level BPE's byte-to-character table."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + place): byte for place, byte in enumerate(others)}


@lru_cache(maxsize=8192)
def token_bytes(id: int) -> bytes:
    """The bytes that one id stands for. Raises IndexError for ids out of the vocabulary."""
    piece = tokenizer().id_to_token(id)
    if piece is None:
        raise IndexError(f"Token id {id} is out of vocabulary")
    if id >= _num_pieces():
        return str(piece).encode()
    values = _byte_values()
    return bytes(values[character] for character in piece)


@lru_cache(maxsize=1)
def _num_pieces() -> int:
    """Ids below are byte-level pieces, those above are markers spelt as they are."""
    return len(_build()[0])


class Detokenizer:
    """Text as it becomes complete: bytes of an unfinished character wait for the next token, as in a real engine."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The characters that this token completes; may be empty."""
        return self._decoder.decode(token_bytes(id))

    def flush(self) -> str:
        """What an unfinished character at the end turns into."""
        return self._decoder.decode(b"", final=True)
