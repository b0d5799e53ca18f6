"""Chunks are read for what they say and forwarded as they came."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamError
from proxy.frames import ChatReader, ChunkWriter, RawReader, Relabel, excise_token_ids
from proxy.think import Piece, ThinkMarkers

MARKERS = ThinkMarkers()
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(['","token_ids":[1],"', '\\"token_ids":null']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def reader(**options: object) -> ChatReader:
    defaults = {"ids_as_null": True, "keep_ids": False, "is_open": lambda ids: False}
    return ChatReader(MARKERS, **(defaults | options))  # type: ignore[arg-type]


def chunk(delta: dict[str, object], **choice: object) -> bytes:
    body = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return json.dumps(body | {"choices": [{"index": 0, "delta": delta} | choice]}, separators=(",", ":")).encode()


@given(JSON, st.lists(st.integers(0, 2**20)), st.booleans())
def test_excision_takes_exactly_the_keys_that_were_asked_for(value: object, ids: list[int], spaced: bool) -> None:
    separators = (", ", ": ") if spaced else (",", ":")
    asked = {"a": value, "choices": [{"x": value, "token_ids": ids}], "prompt_token_ids": ids, "z": 1}
    payload = json.dumps(asked, separators=separators).encode()
    as_null = {"a": value, "choices": [{"x": value, "token_ids": None}], "prompt_token_ids": None, "z": 1}
    absent = {"a": value, "choices": [{"x": value}], "z": 1}
    assert json.loads(excise_token_ids(payload, as_null=True)) == as_null
    assert json.loads(excise_token_ids(payload, as_null=False)) == absent


def test_a_forwarded_chunk_is_byte_for_byte_what_an_unasked_upstream_sends() -> None:
    asked = chunk({"reasoning": "Hi"}, token_ids=[1, 2])
    assert reader().read(asked).payload == chunk({"reasoning": "Hi"}, token_ids=None)


def test_a_client_that_asked_for_ids_gets_them() -> None:
    asked = chunk({"reasoning": "Hi"}, token_ids=[1, 2])
    assert reader(keep_ids=True).read(asked).payload == asked


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_both_names_of_the_reasoning_field_are_reasoning(name: str) -> None:
    chat = reader()
    assert chat.read(chunk({name: "Hm."})).pieces == [Piece("reasoning", "Hm.")]
    assert chat.reasoning_field == name


def test_a_chunk_that_only_carries_ids_is_not_forwarded() -> None:
    assert reader().read(chunk({}, token_ids=[7], logprobs=None, finish_reason=None)).payload is None
    assert reader().read(chunk({}, token_ids=[7], logprobs=None, finish_reason="stop")).payload is not None


def test_inline_thinking_is_told_apart_over_any_chunks() -> None:
    text = "<think>\nReason here.</think>\n\nAnswer with a literal </think> in it."
    for size in range(1, 12):
        chat = reader()
        pieces = [
            p for at in range(0, len(text), size) for p in chat.read(chunk({"content": text[at : at + size]})).pieces
        ]
        pieces += chat.flush()
        assert "".join(p.text for p in pieces if p.channel == "reasoning") == "\nReason here."
        assert "".join(p.text for p in pieces if p.channel == "answer") == "\n\nAnswer with a literal </think> in it."
        assert chat.reasoning_field is None


def test_inline_thinking_opened_by_the_prompt_needs_no_opening_marker() -> None:
    chat = reader(is_open=lambda ids: ids == [5])
    first = json.loads(chunk({"role": "assistant", "content": ""})) | {"prompt_token_ids": [5]}
    chat.read(json.dumps(first).encode())
    assert chat.read(chunk({"content": "Thinking</think>Done"})).pieces == [
        Piece("reasoning", "Thinking"),
        Piece("answer", "", "</think>"),
        Piece("answer", "Done"),
    ]


def test_characters_that_may_begin_a_marker_are_counted_as_held() -> None:
    raw = RawReader(MARKERS, "reasoning")
    delta = raw.read(b'{"choices":[{"text":"so </thi","token_ids":[1]}]}')
    assert delta.pieces == [Piece("reasoning", "so ")]
    assert delta.num_held == 5


@pytest.mark.parametrize(
    "payload",
    [
        b"not json",
        b"[1]",
        b'{"choices": 3}',
        b'{"choices": [4]}',
        b'{"choices": [{"index": 0}]}',
        b'{"choices": [{"delta": {"content": 5}}]}',
        b'{"choices": [{"delta": {}, "token_ids": ["a"]}]}',
        b'{"error": {"message": "engine died"}}',
        b'{"object": "error", "message": "old style"}',
    ],
)
def test_what_is_no_chunk_is_an_upstream_error(payload: bytes) -> None:
    with pytest.raises(UpstreamError):
        reader().read(payload)


def test_n_single_completions_are_labelled_as_one() -> None:
    relabel = Relabel()
    first = relabel.chunk(chunk({"content": 'a "index":0'}), 0)
    other = chunk({"content": "b"}).replace(b'"id":"c"', b'"id":"other"').replace(b'"created":1', b'"created":9')
    second = json.loads(relabel.chunk(other, 2))
    assert first == chunk({"content": 'a "index":0'})
    assert (second["id"], second["created"], second["choices"][0]["index"]) == ("c", 1, 2)


def test_completion_logprobs_become_chat_logprobs() -> None:
    payload = {
        "choices": [
            {
                "text": " a",
                "token_ids": [3],
                "logprobs": {"tokens": [" a"], "token_logprobs": [-0.5], "top_logprobs": [{" a": -0.5, "b": -2.0}]},
            }
        ]
    }
    (entry,) = RawReader(MARKERS, "answer").read(json.dumps(payload).encode()).logprobs or []
    assert (entry["token"], entry["logprob"], entry["bytes"]) == (" a", -0.5, [32, 97])
    assert [top["token"] for top in entry["top_logprobs"]] == [" a", "b"]


def test_a_written_chunk_continues_the_upstreams_own() -> None:
    writer = ChunkWriter({"id": "c", "created": 1, "model": "m"}, 0, "reasoning_content", with_ids=False)
    written = json.loads(writer.text("reasoning", "Wait."))
    assert (written["id"], written["created"], written["model"]) == ("c", 1, "m")
    assert written["choices"][0]["delta"] == {"reasoning_content": "Wait."}
    assert "steer" not in written
