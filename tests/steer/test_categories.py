"""Categories by words: the most words win, and nothing is claimed where none is found."""

import pytest

from steer.categories import WORDS, Categories
from steer.selection import UNKNOWN


def test_most_different_words_win_and_equals_go_by_name() -> None:
    found = Categories({"fire": ("burn", "match"), "baking": ("oven", "Burnt  Sugar")})
    assert found.of("How do I BURN this? Burning, burnt.") == "fire"
    assert found.of("burnt\nsugar in the oven") == "baking"
    assert found.of("an oven and a match") == "baking"
    assert found.of("sunburn") == UNKNOWN, "a word begins where a word begins"
    assert found.of("") == UNKNOWN


def test_of_a_long_text_head_and_tail_are_read() -> None:
    found = Categories({"fire": ("burn",)})
    filler = "word " * 4000
    assert found.of(filler + "burn") == found.of("burn " + filler) == "fire"
    assert found.of(filler + "burn " + filler) == UNKNOWN


def test_the_built_in_lists_are_lists_of_several_words_each() -> None:
    Categories()
    assert UNKNOWN not in WORDS
    assert min(len(words) for words in WORDS.values()) >= 6


@pytest.mark.parametrize("words", [{UNKNOWN: ("a",)}, {"empty": ()}, {"blank": ("word", " ")}])
def test_lists_that_say_nothing_are_refused(words: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValueError, match=next(iter(words))):
        Categories(words)
