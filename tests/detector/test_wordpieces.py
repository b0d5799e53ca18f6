"""Words answered from memory have the tokenizer's own ids, whatever the text."""

import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from detector import wordpieces
from detector.artifact import DEFAULT_ARTIFACT
from detector.wordpieces import WordPieces

_FILE = str(DEFAULT_ARTIFACT / "tokenizer.json")
# White space of every kind, characters that the tokenizer removes, joins or splits at, and its own special tokens.
_ODD = [
    *"abZ9 .,'-[]\t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u200b\u0301\u0345\x00\ufffdéß你ＡİΣσ😀",
    "[CLS]",
    "[SEP]",
    " [PAD] ",
    "##a",
]


_TOKENIZER = Tokenizer.from_file(_FILE)


def _plain(text: str) -> list[int]:
    ids: list[int] = _TOKENIZER.encode(text, add_special_tokens=False).ids
    return ids


@pytest.fixture
def pieces() -> WordPieces:
    return WordPieces(Tokenizer.from_file(_FILE))


def test_ids_are_the_tokenizers_own_for_any_text(pieces: WordPieces) -> None:
    rng = random.Random(0)
    for _ in range(3000):
        text = "".join(rng.choices(_ODD, k=rng.randint(0, 14)))
        for _ in range(2):  # the second time from memory
            assert pieces.ids(text) == _plain(text), repr(text)


def test_a_returned_list_may_be_changed(pieces: WordPieces) -> None:
    pieces.ids("hello").append(7)
    assert pieces.ids("hello") == _plain("hello")


def test_memory_is_bounded(pieces: WordPieces, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wordpieces, "_MAX_WORDS", 50)
    for number in range(500):
        assert pieces.ids(f"word{number} and") == _plain(f"word{number} and")
    pieces.ids("x" * 10_000)
    assert len(pieces._known) <= 50
    assert all(len(word) < 100 for word in pieces._known)


def test_a_tokenizer_that_looks_across_white_space_is_asked_for_the_whole_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(WordLevel({"a b": 0, "a": 1, "b": 2, "?": 3}, unk_token="?"))  # no splitting at all
    assert WordPieces(tokenizer).ids("a b") == [0]
