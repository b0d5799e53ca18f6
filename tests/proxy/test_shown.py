"""What leaves the outbox, and what a cut leaves of it."""

import json
from typing import Any

from proxy.frames import ChunkWriter, Delta
from proxy.shown import Outbox, truncated
from proxy.think import Piece

WRITER = ChunkWriter({"id": "c", "created": 1, "model": "m"}, 0, "reasoning", with_ids=False)
INLINE = ChunkWriter({"id": "c", "created": 1, "model": "m"}, 0, None, with_ids=True)


def outbox(*deltas: Delta, hides_reasoning: bool = False) -> Outbox:
    """An outbox that holds these, one after the other."""
    made = Outbox(hides_reasoning=hides_reasoning)
    at = 0
    for delta in deltas:
        end = at + len(delta.text)
        made.add(delta, at, end + delta.num_held)
        at = end
    return made


def think(text: str, payload: bytes | None = None, **fields: Any) -> Delta:
    return Delta(payload if payload is not None else text.encode(), [Piece("reasoning", text)], **fields)


def deltas(payloads: list[bytes]) -> list[dict[str, Any]]:
    return [json.loads(payload)["choices"][0]["delta"] for payload in payloads]


def test_a_frame_goes_out_once_its_last_character_is_released() -> None:
    box = outbox(think("abc"), think("def"))
    assert box.take(2, WRITER) == []
    assert box.take(5, WRITER) == [b"abc"]
    assert box.take(6, WRITER) == [b"def"]


def test_a_frame_that_may_hold_more_text_than_was_read_waits_for_it() -> None:
    box = outbox(think("abc", num_held=2), think("def"))
    assert box.take(3, WRITER) == []
    assert box.take(5, WRITER) == [b"abc"]


def test_a_terminal_frame_and_what_follows_wait_for_the_end() -> None:
    box = outbox(think("abc"), Delta(b"end", finish_reason="stop"), Delta(b"usage", is_usage=True))
    assert box.take(100, WRITER) == [b"abc"]
    assert box.take_rest(WRITER) == [b"end", b"usage"]


def test_the_frame_that_holds_the_cut_is_rebuilt_with_what_is_kept() -> None:
    box = outbox(
        think("abc"), think("defg", token_ids=[4, 5, 6], logprobs=[{"token": "d"}, {"token": "efg"}]), think("h")
    )
    first, second = box.cut(5, 1, WRITER)
    assert first == b"abc"
    choice = json.loads(second)["choices"][0]
    assert choice["delta"] == {"reasoning": "de"}
    assert choice["logprobs"] == {"content": [{"token": "d"}]}
    assert box.take_rest(WRITER) == []


def test_a_cut_at_the_start_keeps_the_marker_and_no_text() -> None:
    opening = [Piece("reasoning", "", "<think>"), Piece("reasoning", "bad")]
    assert deltas(outbox(Delta(b"x", opening)).cut(0, 1, INLINE)) == [{"content": "<think>"}]
    assert outbox(Delta(b"x", opening)).cut(0, 1, WRITER) == []


def test_hidden_reasoning_takes_its_markers_along() -> None:
    both = [
        Piece("reasoning", "", "<think>"),
        Piece("reasoning", "a"),
        Piece("answer", "", "</think>"),
        Piece("answer", "b"),
    ]
    closing = Delta(b"</think>", [Piece("answer", "", "</think>")])
    box = outbox(Delta(b"x", both), closing, Delta(b"answer", [Piece("answer", "c")]), hides_reasoning=True)
    first, second = box.take(100, INLINE)
    assert deltas([first]) == [{"content": "b"}]
    assert second == b"answer"


def test_a_tool_call_is_kept_whole_or_not_at_all_and_never_written_as_text() -> None:
    call = Piece("answer", 'f{"a":1}', is_call=True)
    assert truncated([Piece("answer", "ab"), call], 4) == [Piece("answer", "ab")]
    assert truncated([call], 8) == [call]
    assert outbox(Delta(None, [call])).take(100, WRITER) == []


def test_truncation_keeps_the_marker_right_behind_the_last_character() -> None:
    pieces = [Piece("reasoning", "abc"), Piece("answer", "", "</think>"), Piece("answer", "d")]
    assert truncated(pieces, 3) == pieces[:2]
    assert truncated(pieces, 2) == [Piece("reasoning", "ab")]
