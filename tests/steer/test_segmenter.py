"""Segments are sentences, lines or bounded pieces, and depend on the text alone."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steer.segmenter import Segment, Segmenter, segment

pytestmark = pytest.mark.timeout(600)

_RUN = st.builds(lambda char, count: char * count, st.sampled_from(" .。\n\t*!\r-aB"), st.integers(1, 30))
_TEXT = (
    st.text(max_size=200)
    | st.text(alphabet="ab .!?\n\"')。、1.・」…X", max_size=120)
    | st.lists(
        _RUN | st.sampled_from(["\r\n", "ab.", "e.g.", "\u0301", "\u200b", "\ud83d", "\u2028"]), max_size=14
    ).map("".join)
)


def pieces(text: str, max_chars: int = 320) -> list[str]:
    return [text[s.start : s.end] for s in segment(text, max_chars)]


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(_TEXT, st.integers(0, 2**32), st.sampled_from([8, 20, 320]))
def test_segments_do_not_depend_on_chunks(text: str, seed: int, max_chars: int) -> None:
    rng, segmenter, found, at = random.Random(seed), Segmenter(max_chars), list[Segment](), 0
    while at < len(text):
        size = rng.randint(0, 9)
        found += segmenter.push(text[at : at + size])
        at += size
    assert found + segmenter.flush() == segment(text, max_chars)


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(_TEXT, st.sampled_from([8, 20, 320]))
def test_every_character_that_is_no_blank_is_in_exactly_one_bounded_segment(text: str, max_chars: int) -> None:
    end = 0
    for index, found in enumerate(segment(text, max_chars)):
        assert found.index == index
        assert found.start >= end
        assert not text[end : found.start].strip()
        assert 0 < found.end - found.start <= max_chars
        end = found.end
    assert not text[end:].strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", ["One.", " Two!", " Three?"]),
        ("It costs 3.14 dollars. Fine.", ["It costs 3.14 dollars.", " Fine."]),
        ("See Dr. Smith, e.g. today. Then go.", ["See Dr. Smith, e.g. today.", " Then go."]),
        ("The U.S. law applies. Next.", ["The U.S. law applies.", " Next."]),
        ('He said "stop." Then left.', ['He said "stop."', " Then left."]),
        ("First step.\n\nSecond step.", ["First step.\n\n", "Second step."]),
        ("\n\nOkay, so. Next", ["Okay, so.", " Next"]),
        ("1. First item\n2. Second item\n", ["1. First item\n", "2. Second item\n"]),
        ("这是一句。第二句！还有", ["这是一句。", "第二句！", "还有"]),
        ("他说：「好。」然后走了。", ["他说：「好。」", "然后走了。"]),
        ("Well... okay then. Yes", ["Well...", " okay then.", " Yes"]),
        ("x = 1\nif x:\n    f(x)\n", ["x = 1\n", "if x:\n", "    f(x)\n"]),
        ("```\ncode\n", ["```\ncode\n"]),
        ("   \n\n ", []),
        ("", []),
    ],
)
def test_boundaries_are_where_a_reader_would_put_them(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


def test_text_without_any_punctuation_is_cut_at_white_space_within_the_bound() -> None:
    found = pieces("word " * 30, max_chars=20)
    assert all(len(piece) <= 20 for piece in found)
    assert all(not piece.strip() or piece.split()[-1] == "word" for piece in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ab cd f。x", ["Ab cd f。", "x"]),  # a sentence of exactly the bound is whole
        ("Abcd efg。x", ["Abcd efg", "。x"]),  # one longer is not
        ("xxxxxxxxx", ["xxxxxxxx", "x"]),
        ("abcde gh ij", ["abcde gh", " ij"]),  # the last white space counts, up to the bound itself
        ("abcde fghij", ["abcde", " fghij"]),  # the first that lies in the second half
        ("abcd fghij", ["abcd fgh", "ij"]),  # the last that lies in the first half: cut hard
    ],
)
def test_the_bound_of_eight_characters_is_kept_to_the_character(text: str, expected: list[str]) -> None:
    assert pieces(text, max_chars=8) == expected


def test_a_wall_of_characters_is_cut_hard_at_the_bound() -> None:
    assert [len(piece) for piece in pieces("x" * 50, max_chars=20)] == [20, 20, 10]


@pytest.mark.parametrize("blank", [" " * 400, " " * 320 + "\t" * 80])
def test_a_long_run_of_white_space_before_a_line_break_is_in_no_segment_however_it_comes(blank: str) -> None:
    text = blank + "\nOne. Two."
    segmenter = Segmenter()
    one_by_one = [found for char in text for found in segmenter.push(char)] + segmenter.flush()
    assert one_by_one == segment(text) == [Segment(0, 401, 405), Segment(1, 405, 410)]


@pytest.mark.parametrize("char", [".", "。", "!", "*", "\n", " "])
def test_an_enormous_run_of_one_character_is_read_once(char: str) -> None:
    found = segment("Word" + char * 200_000)  # a run read again from each of its characters takes an hour
    assert all(end - start <= 320 for start, end in ((s.start, s.end) for s in found))


def test_start_is_the_end_of_what_is_decided() -> None:
    segmenter = Segmenter()
    segmenter.push("One. Two")
    assert segmenter.start == 4


def test_a_bound_too_small_to_hold_a_word_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 8"):
        Segmenter(7)
