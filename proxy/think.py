"""Tells reasoning from answer in raw text, where `<think>` and `</think>` stand in the text itself.

Used for legs that the proxy resumed on a raw endpoint, and for upstreams that run without a reasoning parser. A marker
may be split over any number of chunks. Rules: an opening marker counts only before any other text; the first closing
marker ends the reasoning; what follows is answer, whatever it contains (so a model that *quotes* a marker in its answer
is quoted, not obeyed).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from steer.events import Channel


@dataclass(frozen=True, slots=True)
class ThinkMarkers:
    """The literal markers of a model family."""

    start: str = "<think>"
    end: str = "</think>"


class Piece(NamedTuple):
    """Text of one channel; or a marker, which is no text (`text` empty, `marker` as it stood in the stream).

    `is_call`: names and arguments of tool calls, judged as answer text but shown only as calls.
    """

    channel: Channel
    text: str
    marker: str = ""
    is_call: bool = False


class ThinkSplitter:
    """Push decoder: text in, pieces out. `state` "start" looks for an opening marker first."""

    def __init__(self, markers: ThinkMarkers, state: Literal["start", "reasoning", "answer"]) -> None:
        self._markers = markers
        self._state = state
        self._held = ""
        self._has_reasoning = False

    @property
    def num_held(self) -> int:
        """Characters that may still turn out to be part of a marker."""
        return len(self._held)

    @property
    def has_reasoning(self) -> bool:
        """Whether reasoning text has been seen."""
        return self._has_reasoning

    @property
    def channel(self) -> Channel:
        """The channel that text belongs to now; undecided starts count as answer."""
        return "reasoning" if self._state == "reasoning" else "answer"

    def push(self, text: str) -> list[Piece]:
        """Pieces decided by now, in order: what was pushed, less a tail that may begin a marker."""
        self._held += text
        pieces: list[Piece] = []
        if self._state == "start":
            self._find_start(pieces)
        if self._state == "reasoning":
            self._find_end(pieces)
        if self._state == "answer" and self._held:
            pieces.append(Piece("answer", self._held))
            self._held = ""
        return pieces

    def flush(self) -> list[Piece]:
        """The text is over: a held tail was no marker."""
        held, self._held = self._held, ""
        return [Piece(self.channel, held)] if held else []

    def _find_start(self, pieces: list[Piece]) -> None:
        head = self._held.lstrip()
        if head.startswith(self._markers.start):
            marker_end = len(self._held) - len(head) + len(self._markers.start)
            pieces.append(Piece("reasoning", "", self._held[:marker_end]))
            self._held = self._held[marker_end:]
            self._state = "reasoning"
        elif not self._markers.start.startswith(head):
            self._state = "answer"

    def _find_end(self, pieces: list[Piece]) -> None:
        marker = self._markers.end
        before, found, after = self._held.partition(marker)
        if found:
            self._held = after
            self._state = "answer"
            if before:
                self._has_reasoning = True
                pieces.append(Piece("reasoning", before))
            pieces.append(Piece("answer", "", marker))
            return
        held = next((n for n in range(min(len(marker) - 1, len(before)), 0, -1) if marker.startswith(before[-n:])), 0)
        text = before[: len(before) - held]
        self._held = before[len(before) - held :]
        if text:
            self._has_reasoning = True
            pieces.append(Piece("reasoning", text))
