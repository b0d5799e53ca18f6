"""Stop strings end the answer where they stand, whatever the chunks."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.stops import StopStrings

_TEXT = st.text(alphabet="abX\n", max_size=30)


def shown(text: str, cuts: list[int], stops: list[str], *, include: bool) -> tuple[str, str | None]:
    stopper = StopStrings(stops, include=include)
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    limit, allowed = 0, 0
    for a, b in pairwise(edges):
        limit = stopper.push(text[a:b])
        assert limit >= allowed or stopper.hit is not None
        assert text[:limit].count("XX") == 0 or include
        allowed = limit
        if stopper.hit is not None:
            return text[:limit], stopper.hit
    return text, None


@given(_TEXT, st.lists(st.integers(0, 30), max_size=6), st.booleans())
def test_the_answer_ends_at_the_first_stop_string(text: str, cuts: list[int], include: bool) -> None:
    at = text.find("XX")
    expected = (text, None) if at < 0 else (text[: at + (2 if include else 0)], "XX")
    assert shown(text, cuts, ["XX"], include=include) == expected


def test_the_stop_string_that_is_complete_first_wins() -> None:
    assert shown("abcX", [], ["bcX", "c"], include=False) == ("ab", "c")


def test_without_stop_strings_nothing_is_held_back() -> None:
    assert StopStrings([], include=False).push("abc") == 3


def test_a_possible_beginning_of_a_stop_string_is_held_back() -> None:
    stopper = StopStrings(["END"], include=False)
    assert stopper.push("the EN") == 4
    assert stopper.push("d") == 7
