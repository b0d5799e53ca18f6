"""The decoder gives the same events however the bytes arrive."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import UpstreamError
from proxy.sse import SSEDecoder, encode

_STREAM = (
    b": comment\n\ndata: one\n\n"
    b"event: x\r\ndata:two\r\ndata: lines\r\n\r\n"
    b'data: {"a":"\xe2\x80\xa8"}\r\r'
    b"id: 7\nretry: 5\n\ndata: [DONE]\n\n"
)
_EVENTS = [b"one", b"two\nlines", b'{"a":"\xe2\x80\xa8"}', b"[DONE]"]


@given(st.lists(st.integers(0, len(_STREAM)), max_size=40))
def test_events_do_not_depend_on_how_the_bytes_are_split(cuts: list[int]) -> None:
    decoder = SSEDecoder()
    edges = [0, *sorted(cuts), len(_STREAM)]
    events = [e for a, b in pairwise(edges) for e in decoder.feed(_STREAM[a:b])]
    assert events == _EVENTS
    assert not decoder.is_mid_event


def test_every_single_byte_alone_gives_the_same_events() -> None:
    decoder = SSEDecoder()
    assert [e for byte in _STREAM for e in decoder.feed(bytes([byte]))] == _EVENTS


def test_half_an_event_is_told() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: half") == []
    assert decoder.is_mid_event


@pytest.mark.parametrize("piece", [b"x" * 50, b"data: " + b"x" * 50 + b"\n"])
def test_an_endless_event_is_refused(piece: bytes) -> None:
    decoder = SSEDecoder(max_event_bytes=1000)
    for _ in range(14):
        decoder.feed(piece)
    with pytest.raises(UpstreamError, match="more than 1000 bytes"):
        decoder.feed(piece * 10)


@given(st.text(alphabet=st.characters(exclude_characters="\r")))
def test_what_is_encoded_is_decoded(text: str) -> None:
    assert SSEDecoder().feed(encode(text.encode())) == [text.encode()]
