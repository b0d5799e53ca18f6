"""The ids that survive a cut are the engine's own, and their text ends at or before it."""

import random

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from proxy.cut import DecodeError, LegTokens

START, END = 900, 901
TEXT = "Okay, let me think. 这是一个句子。 Émile said “no” 🙂👩‍👩‍👧 then 3.14\n\nCUE here."


def byte_tokenizer() -> Tokenizer:
    """Bytes as tokens, with a few merges: characters are split over tokens, words share one."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("l", "e"), ("le", "t")]
    vocab = {token: id for id, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZER = byte_tokenizer()


async def decode(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


def leg(text: str, rng: random.Random, largest: int) -> LegTokens:
    """The text as events of 1 to `largest` tokens, text appearing only with whole characters."""
    tokens = LegTokens(frozenset([START, END]))
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    tokens.add("", [START])
    sent, at = "", 0
    while at < len(ids):
        size = rng.randint(1, largest)
        whole = TOKENIZER.decode(ids[: at + size], skip_special_tokens=False).rstrip("\ufffd")
        tokens.add(whole[len(sent) :], ids[at : at + size])
        sent, at = whole, at + size
    return tokens


@given(st.text(max_size=60) | st.just(TEXT), st.integers(0, 2**32), st.integers(1, 9), st.data())
def test_kept_ids_are_a_prefix_and_decode_to_the_kept_text(
    text: str, seed: int, largest: int, data: st.DataObject
) -> None:
    tokens = leg(text, random.Random(seed), largest)
    if tokens.text != text:  # a text that holds U+FFFD itself
        return
    at = data.draw(st.integers(0, len(text)))
    cut = anyio.run(tokens.cut, at, decode)
    assert cut.kept_ids + cut.cut_ids == tokens.token_ids
    assert cut.kept_chars <= at
    assert cut.kept_ids[:1] == [START]
    assert (
        TOKENIZER.decode([i for i in cut.kept_ids if i != START], skip_special_tokens=False) == text[: cut.kept_chars]
    )


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_a_cut_at_a_token_boundary_keeps_everything_before_it(seed: int, largest: int) -> None:
    tokens = leg(TEXT, random.Random(seed), largest)
    at = TEXT.index("CUE")
    cut = anyio.run(tokens.cut, at, decode)
    assert cut.kept_chars == at


def test_a_tokenizer_that_fails_moves_the_cut_to_the_event_before() -> None:
    async def broken(ids: list[int]) -> str:
        raise DecodeError("gone")

    tokens = LegTokens(frozenset([START]))
    tokens.add("", [START])
    tokens.add("One.", [1, 2])
    tokens.add(" Two. CUE", [3, 4, 5])
    cut = anyio.run(tokens.cut, 9, broken)
    assert (cut.kept_chars, cut.kept_ids, cut.cut_ids) == (4, [START, 1, 2], [3, 4, 5])


def test_the_marker_that_opens_thinking_survives_a_cut_at_the_very_start() -> None:
    together = LegTokens(frozenset([START]))
    together.add("CUE", [START, 1])
    assert anyio.run(together.cut, 0, decode).kept_ids == [START]


def test_the_marker_that_ends_thinking_survives_a_cut_at_the_start_of_the_answer() -> None:
    tokens = LegTokens(frozenset([START, END]))
    tokens.add("Safe.", [1])
    tokens.add("", [END])
    tokens.add("", [2])  # the first byte of the answer's first character
    tokens.add("é", [3])
    cut = anyio.run(tokens.cut, 5, decode)
    assert cut.kept_ids == [1, END]


@pytest.mark.parametrize(("kept", "inside"), [(0, 0), (1, 1), (2, 2), (3, 1), (5, 3)])
def test_ids_inside_the_event_that_holds_the_cut_are_counted(kept: int, inside: int) -> None:
    tokens = LegTokens(frozenset())
    tokens.add("ab", [1, 2])
    tokens.add("cde", [3, 4, 5])
    assert tokens.num_inside(kept) == inside


def test_an_upstream_without_ids_can_be_cut_anywhere() -> None:
    tokens = LegTokens(frozenset())
    tokens.add("Some text", [])
    assert anyio.run(tokens.cut, 4, decode).kept_chars == 4
