"""What waits to be shown: frames of the current leg, in order, each with the text offset where it ends.

Rules kept here: a frame goes out once its last character is released; a frame with a finish reason, and whatever
follows it, waits for the end of the stream; at a cut, frames beyond it are dropped and the one that holds it is
rebuilt from its kept text.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.frames import ChunkWriter, Delta
from proxy.think import Piece


@dataclass(slots=True)
class Frame:
    """One payload. `start` and `end` are offsets in the leg's text; without `payload` it is written from its pieces."""

    payload: bytes | None
    start: int
    end: int
    delta: Delta
    is_terminal: bool = False


class Outbox:
    """The frames of one choice that are not shown yet."""

    def __init__(self, *, hides_reasoning: bool) -> None:
        self._frames: deque[Frame] = deque()
        self._hides_reasoning = hides_reasoning

    def add(self, delta: Delta, start: int, end: int) -> None:
        """Queue one event's frame; `end` is where its text ends, at the latest."""
        self._frames.append(Frame(delta.payload, start, end, delta, delta.finish_reason is not None))

    def take(self, up_to: int, writer: ChunkWriter) -> list[bytes]:
        """Payloads of the frames that end at or before `up_to`, up to the first terminal one."""
        taken: list[bytes] = []
        while self._frames and self._frames[0].end <= up_to and not self._frames[0].is_terminal:
            taken += self._payloads(self._frames.popleft(), writer)
        return taken

    def take_rest(self, writer: ChunkWriter) -> list[bytes]:
        """Everything that is left, terminal frames included: the stream ended by itself."""
        taken = [payload for frame in self._frames for payload in self._payloads(frame, writer)]
        self._frames.clear()
        return taken

    def cut(self, kept: int, kept_ids: int, writer: ChunkWriter) -> list[bytes]:
        """Drop all text at and after `kept`; payloads for what still stands before it.

        `kept_ids` is how many ids of the frame that holds the cut survive, for its log-probabilities.
        """
        taken: list[bytes] = []
        while self._frames:
            frame = self._frames.popleft()
            if frame.start > kept:
                continue
            if frame.end <= kept and not frame.is_terminal:
                taken += self._payloads(frame, writer)
                continue
            pieces = truncated(frame.delta.pieces, kept - frame.start)
            if frame.start == kept and not pieces:
                continue
            head = Delta(None, pieces, frame.delta.token_ids[:kept_ids])
            head.logprobs = None if frame.delta.logprobs is None else frame.delta.logprobs[:kept_ids]
            taken += self._payloads(Frame(None, frame.start, kept, head), writer)
        return taken

    def _payloads(self, frame: Frame, writer: ChunkWriter) -> list[bytes]:
        delta = frame.delta
        if self._hides_reasoning and any(piece.channel == "reasoning" or piece.marker for piece in delta.pieces):
            shown = [piece for piece in delta.pieces if piece.channel == "answer" and not piece.marker]
            return write_pieces(writer, delta, shown)
        if frame.payload is not None:
            return [frame.payload]
        return [] if delta.is_usage else write_pieces(writer, delta, delta.pieces)


def truncated(pieces: Sequence[Piece], chars: int) -> list[Piece]:
    """The pieces' first `chars` characters, and the markers that stand before or right behind the last of them.

    A tool call is kept whole or not at all.
    """
    kept: list[Piece] = []
    for piece in pieces:
        if piece.marker:
            kept.append(piece)
        elif piece.text:
            if chars <= 0 or (piece.is_call and len(piece.text) > chars):
                break
            kept.append(piece._replace(text=piece.text[:chars]))
            chars -= len(piece.text)
            if chars < 0:
                break
    return kept


def write_pieces(writer: ChunkWriter, delta: Delta, pieces: Sequence[Piece]) -> list[bytes]:
    """Chunks for text that has no frame of its own; ids and log-probabilities go with the first."""
    payloads: list[bytes] = []
    extra: dict[str, Any] = {"token_ids": delta.token_ids, "logprobs": delta.logprobs}
    for piece in pieces:
        if piece.marker:
            if (marker := writer.marker(piece.marker)) is not None:
                payloads.append(marker)
        elif piece.text and not piece.is_call:
            payloads.append(writer.text(piece.channel, piece.text, **extra))
            extra = {}
    if delta.tool_calls:
        payloads.append(writer.delta({"tool_calls": delta.tool_calls}))
    return payloads
