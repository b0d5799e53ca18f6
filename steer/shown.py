"""A bounded memory of the text of a stream: what the detector's context and a trigger's separator need, and no more.

The text before a segment is given whole while it is short. Beyond `WHOLE_CHARS` it is its first `OPENING_CHARS` and
its last `TAIL_CHARS` characters: a trace's opening says what task the model believes it has, its end what it is doing.
So the cost of a segment does not grow with the trace, and a detector that reads only so much of either end sees the
same text live as offline.
"""

WHOLE_CHARS = 1200
OPENING_CHARS = 400
TAIL_CHARS = 800
_TRIM_STEP_CHARS = 4 * WHOLE_CHARS  # in large steps, so that trimming stays linear


class ShownText:
    """Text of the current leg by its offsets, and of earlier legs by their ends."""

    def __init__(self) -> None:
        self._opening = ""  # first OPENING_CHARS of everything
        self._earlier = ""  # end of the text before this leg, at most WHOLE_CHARS
        self._earlier_length = 0
        self._leg = ""  # this leg from _offset on
        self._offset = 0

    def append(self, text: str) -> None:
        """More text of the current leg."""
        self._leg += text
        if len(self._opening) < OPENING_CHARS:
            self._opening += text[: OPENING_CHARS - len(self._opening)]

    def slice(self, start: int, end: int) -> str:
        """Text of the current leg between two offsets that have not been forgotten."""
        return self._leg[start - self._offset : end - self._offset]

    def before(self, at: int) -> str:
        """Everything before offset `at` of the current leg, whole or as its two ends."""
        if self._earlier_length + at <= WHOLE_CHARS:
            return self._last(WHOLE_CHARS, at)
        return self._opening + self._last(TAIL_CHARS, at)

    def forget(self, before: int) -> None:
        """Text of the current leg before this offset will be asked for only as context."""
        surplus = before - self._offset - WHOLE_CHARS
        if surplus > _TRIM_STEP_CHARS:
            self._leg = self._leg[surplus:]
            self._offset += surplus

    def start_leg(self, kept: int, spliced: str) -> None:
        """The current leg ends after `kept` characters, `spliced` follows, and a new leg begins."""
        text = self._last(WHOLE_CHARS, kept)
        self._opening = (self._opening[: self._earlier_length + kept] + spliced)[:OPENING_CHARS]
        self._earlier = (text + spliced)[-WHOLE_CHARS:]
        self._earlier_length += kept + len(spliced)
        self._leg, self._offset = "", 0

    def _last(self, count: int, at: int) -> str:
        """The last `count` characters before offset `at` of the current leg; copies no more than that."""
        end = max(0, at - self._offset)
        text = self._leg[max(0, end - count) : end]
        if len(text) < count and self._offset == 0:
            text = self._earlier[-(count - len(text)) :] + text
        return text
