"""Tool-call markup of a raw leg becomes tool calls, or nothing: never text."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.frames import Delta
from proxy.think import Piece
from proxy.toolcalls import ToolCallReader

CALL = '<tool_call>\n{"name": "look_up", "arguments": {"q": "a } b", "n": {"x": 1}}}\n</tool_call>'


def read(text: str, cuts: list[int]) -> tuple[str, Delta]:
    reader = ToolCallReader()
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    shown = "".join(piece.text for a, b in pairwise(edges) for piece in reader.filter([Piece("answer", text[a:b])]))
    last = Delta(None, finish_reason="stop")
    reader.finish(last)
    return shown + "".join(piece.text for piece in last.pieces if not piece.is_call), last


@given(st.lists(st.integers(0, 200), max_size=6))
def test_a_call_is_parsed_and_not_shown_however_it_is_chunked(cuts: list[int]) -> None:
    shown, last = read("Let me look. " + CALL + "\n" + CALL, cuts)
    assert shown == "Let me look. "
    assert last.finish_reason == "tool_calls"
    assert last.tool_calls is not None
    assert [call["function"]["name"] for call in last.tool_calls] == ["look_up", "look_up"]
    assert json.loads(last.tool_calls[0]["function"]["arguments"]) == {"q": "a } b", "n": {"x": 1}}


@pytest.mark.parametrize(
    "markup",
    [
        "<tool_call>\n{broken}</tool_call>",
        '<tool_call>{"name": 5}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "no object"}</tool_call>',
        CALL + " and prose after it",
        "[TOOL_CALLS][{}]",
        "<|python_tag|>f.call()",
        "<function=f>{}</function>",
    ],
)
def test_markup_that_is_no_clean_call_is_withheld(markup: str) -> None:
    shown, last = read("Before. " + markup, [])
    assert shown == "Before. "
    assert (last.finish_reason, last.tool_calls) == ("content_filter", None)


def test_text_that_only_looks_like_the_start_of_markup_is_shown() -> None:
    assert read("a < b and <tool", [5, 9])[0] == "a < b and <tool"


def test_reasoning_is_not_searched_for_markup() -> None:
    pieces = [Piece("reasoning", "<tool_call>"), Piece("answer", "", "</think>")]
    assert ToolCallReader().filter(pieces) == pieces
