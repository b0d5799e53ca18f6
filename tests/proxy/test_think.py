"""Reasoning is told from answer in raw text, whatever the chunks."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from proxy.think import Piece, ThinkMarkers, ThinkSplitter

MARKERS = ThinkMarkers()
_TEXT = st.lists(st.sampled_from(["<think>", "</think>", "<", "/think>", "a", " ", "\n", "思", "</thin"]), max_size=10)


def split(chunks: list[str], state: str = "start") -> list[Piece]:
    splitter = ThinkSplitter(MARKERS, state)  # type: ignore[arg-type]
    pieces = [piece for chunk in chunks for piece in splitter.push(chunk)]
    return pieces + splitter.flush()


def channels(pieces: list[Piece]) -> tuple[str, str]:
    return (
        "".join(piece.text for piece in pieces if piece.channel == "reasoning"),
        "".join(piece.text for piece in pieces if piece.channel == "answer"),
    )


@given(_TEXT.map("".join), st.lists(st.integers(0, 60), max_size=8), st.sampled_from(["start", "reasoning", "answer"]))
def test_channels_do_not_depend_on_chunks_and_nothing_is_lost(text: str, cuts: list[int], state: str) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = split([text[a:b] for a, b in pairwise(edges)], state)
    assert channels(pieces) == channels(split([text], state))
    assert "".join(piece.text + piece.marker for piece in pieces) == text


def test_an_opening_marker_counts_only_before_other_text() -> None:
    assert channels(split(["\n<think>why</think>so"])) == ("why", "so")
    assert channels(split(["Use <think> tags"])) == ("", "Use <think> tags")


def test_a_marker_quoted_in_the_answer_is_answer() -> None:
    assert channels(split(["r</think>a <think>b</think>c"], "reasoning")) == ("r", "a <think>b</think>c")


def test_text_is_not_held_longer_than_a_marker_could_need() -> None:
    splitter = ThinkSplitter(MARKERS, "reasoning")
    splitter.push("so </think")
    assert splitter.num_held == len("</think")
    assert splitter.push("er") == [Piece("reasoning", "</thinker")]
