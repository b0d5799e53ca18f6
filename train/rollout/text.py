"""The text of one generated leg, with the ids behind it: split into reasoning and answer, and cut between ids.

Rules kept here, equal to the live proxy's: ids are the truth. An opening marker counts only before any other text; the
first closing marker ends the reasoning; what follows is answer. A cut keeps the longest run of ids whose text ends at
or before it; ids that only begin a character go with it; markers stay with what precedes them.
Two kinds of offset: `raw` counts all text, markers included; a *leg offset* counts what the engine is fed.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from steer.events import Channel
from train.rollout.vocabulary import Opening, ThinkMarkers


class Part(NamedTuple):
    """raw[start:end] is text of one channel."""

    channel: Channel
    start: int
    end: int


class IdCut(NamedTuple):
    """`kept_chars` (a leg offset) and the number of ids behind them."""

    kept_chars: int
    kept_ids: int


@dataclass(frozen=True, slots=True)
class LegText:
    """`ends[i]`: raw offset where the text of id i ends. Parts are in order, at most one of each channel."""

    raw: str
    ends: list[int]
    parts: list[Part]

    def of(self, channel: Channel) -> str:
        """All text of a channel."""
        return "".join(self.raw[part.start : part.end] for part in self.parts if part.channel == channel)

    def pieces(self) -> list[tuple[Channel, str]]:
        """What the engine is fed, in order."""
        return [(part.channel, self.raw[part.start : part.end]) for part in self.parts]

    def cut(self, at: int) -> IdCut:
        """The cut at or before leg offset `at`, between ids."""
        count = bisect_right(self.ends, self._raw_offset(at))
        while count and self.ends[count - 1] == (self.ends[count - 2] if count > 1 else 0):
            count -= 1  # the first bytes of a character that the cut takes away
        return IdCut(self._leg_offset(self.ends[count - 1] if count else 0), count)

    def ids_covering(self, end: int) -> int:
        """Number of ids, from the first, that hold the text before leg offset `end`."""
        if end <= 0:
            return 0
        return min(len(self.ends), bisect_left(self.ends, self._raw_offset(end - 1) + 1) + 1)

    def _raw_offset(self, at: int) -> int:
        """Of a leg offset; on a border, beyond the marker that stands there."""
        for part in self.parts:
            if at < part.end - part.start:
                return part.start + at
            at -= part.end - part.start
        return self.parts[-1].end if self.parts else 0

    def _leg_offset(self, raw: int) -> int:
        return sum(max(0, min(raw, part.end) - part.start) for part in self.parts)


def leg_text(texts: Sequence[str], opening: Opening, markers: ThinkMarkers) -> LegText:
    """The leg whose ids complete `texts`, one each."""
    raw = "".join(texts)
    return LegText(raw, list(accumulate(map(len, texts))), _parts(raw, opening, markers))


def _parts(raw: str, opening: Opening, markers: ThinkMarkers) -> list[Part]:
    begin = 0
    if opening == "start":
        blank = len(raw) - len(raw.lstrip())
        if not raw.startswith(markers.start, blank):
            return [Part("answer", 0, len(raw))]
        begin = blank + len(markers.start)
    elif opening == "answer":
        return [Part("answer", 0, len(raw))]
    end = raw.find(markers.end, begin)
    if end < 0:
        return [Part("reasoning", begin, len(raw))]
    return [Part("reasoning", begin, end), Part("answer", end + len(markers.end), len(raw))]
