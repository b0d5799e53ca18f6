"""What has come of one leg: its text by offsets, its ids, where the answer and a tool call begin, what is shown of it.

Offsets count the characters of the leg that the engine was fed, reasoning and answer concatenated. A new leg is a new
LegState; nothing of an old one can leak into it.
"""

from collections import deque

from proxy.cut import Decode, LegEvent, LegTokens
from proxy.errors import UpstreamError
from proxy.frames import Delta
from proxy.legs import Leg
from proxy.stops import StopStrings
from proxy.think import Piece


class LegEnd:
    """The leg has ended: by itself, or with `error`."""

    def __init__(self, error: UpstreamError | None) -> None:
        self.error = error


class LegState:
    """One leg. `number` 0 is the request itself; `stops` counts from this leg's answer."""

    def __init__(self, number: int, leg: Leg, marker_ids: frozenset[int], stops: StopStrings) -> None:
        self.number = number
        self.leg = leg
        self.stops = stops
        self.tokens = LegTokens(marker_ids)
        self.backlog: deque[Delta | LegEnd] = deque()  # received and not yet fed to the engine
        self.length = 0
        self.released = 0
        self.has_text = False  # the engine has been given something, if only a change of channel
        self.is_ended = False
        self.is_cut = False  # a cut has settled what is kept, and its tokens are counted
        self.call_start: int | None = None  # where the first tool call begins
        self.end_frame: Delta | None = None
        self.shown_ids: list[int] | None = None  # ids that are shown, where not all are
        self._answer_start: int | None = None
        self._answer_limit: int | None = None  # where stop strings end what may be shown
        self._stop_base = 0  # what the stop strings count from
        self._began_in_reasoning = True

    @property
    def show_limit(self) -> int:
        """Text before this offset may be shown now."""
        return self.released if self._answer_limit is None else min(self.released, self._answer_limit)

    @property
    def end(self) -> int:
        """Where the leg's text ends for the client: at a stop string, else where it ends."""
        return self.length if self.stops.hit is None or self._answer_limit is None else self._answer_limit

    @property
    def uncut_tokens(self) -> LegTokens | None:
        """The leg's tokens, unless a cut has settled what is kept of it."""
        return None if self.is_cut else self.tokens

    @property
    def client_ids(self) -> list[int]:
        """Ids of a leg that was not cut, as far as they are shown."""
        if self.is_cut:
            return []
        return self.tokens.token_ids if self.shown_ids is None else self.shown_ids

    def receive(self, deltas: list[Delta]) -> None:
        """A batch has come. All its ids are on the books before any of its text can lead to a cut."""
        for delta in deltas:
            event = delta.leg_event or LegEvent(delta.text, delta.token_ids)
            if not delta.is_slice:
                self.tokens.add(event.text, event.token_ids)
        self.backlog += deltas

    def feed(self, piece: Piece) -> str:
        """The piece's text, as far as the client's stop strings let it be said: what follows is never judged."""
        text = self._until_stop(piece)
        if not self.has_text:
            self._began_in_reasoning = piece.channel == "reasoning"
        if piece.is_call and self.call_start is None:
            self.call_start = self.length
        self.has_text = True
        self.length += len(text)
        return text

    def is_reasoning_at(self, at: int) -> bool:
        """Whether a client that was shown the leg up to `at` is left inside the reasoning."""
        return self._began_in_reasoning and (self._answer_start is None or at < self._answer_start)

    async def end_shown_at(self, at: int, decode: Decode) -> None:
        """No text is shown from `at` on, so no id behind it is either."""
        self.shown_ids = (await self.tokens.cut(at, decode)).kept_ids

    def _until_stop(self, piece: Piece) -> str:
        if piece.channel == "reasoning":
            return piece.text
        if self._answer_start is None:
            self._answer_start = self._stop_base = self.length
        if piece.is_call:
            self._stop_base += len(piece.text)  # stop strings are looked for in text alone
            self._answer_limit = self.length + len(piece.text)
            return piece.text
        self._answer_limit = self._stop_base + self.stops.push(piece.text)
        return piece.text if self.stops.hit is None else piece.text[: max(0, self._answer_limit - self.length)]
