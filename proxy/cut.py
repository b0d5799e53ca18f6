"""Finds the token ids that survive a halt: the longest run of known ids whose text ends at or before the cut.

Rules kept here: ids are the truth, text is for reading. A cut falls only between ids that the engine itself sent; text
is never re-encoded. Where one event carries several ids, they are decoded one by one to find the boundary; where that
fails, the cut moves back to the last event boundary, which is always known. Ids that decode to nothing yet (the first
bytes of a character) go with the character that they begin; marker ids (`<think>`, `</think>`) stay with what precedes
them.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Decode = Callable[[list[int]], Awaitable[str]]

# Enough ids before the event for a decoder's context (leading spaces, byte merges); more costs only time.
_DECODE_CONTEXT_IDS = 6


@dataclass(frozen=True, slots=True)
class LegEvent:
    """What one upstream event added to a leg: `text` without markers, and the ids behind it."""

    text: str
    token_ids: list[int]


@dataclass(frozen=True, slots=True)
class Cut:
    """`kept_chars` of the leg's text and exactly the ids behind them; the rest was cut off."""

    kept_chars: int
    kept_ids: list[int]
    cut_ids: list[int]


@dataclass(slots=True)
class LegTokens:
    """Text and ids of one leg, in order of arrival. `marker_ids` are the ids of the think markers."""

    marker_ids: frozenset[int]
    events: list[LegEvent] = field(default_factory=list)

    def add(self, text: str, token_ids: Sequence[int]) -> None:
        """Append one event."""
        if text or token_ids:
            self.events.append(LegEvent(text, list(token_ids)))

    @property
    def num_tokens(self) -> int:
        """Ids received."""
        return sum(len(event.token_ids) for event in self.events)

    @property
    def token_ids(self) -> list[int]:
        """All ids of the leg."""
        return [id for event in self.events for id in event.token_ids]

    @property
    def text(self) -> str:
        """All text of the leg."""
        return "".join(event.text for event in self.events)

    def num_inside(self, num_kept: int) -> int:
        """How many of the first `num_kept` ids belong to the event in which they end."""
        for event in self.events:
            if num_kept <= len(event.token_ids):
                break
            num_kept -= len(event.token_ids)
        return num_kept

    def cut_between(self, at: int) -> Cut:
        """The cut at the last event boundary at or before character `at`; a quick one, without decoding."""
        chars, num_ids = 0, 0
        for event in self.events:
            if chars + len(event.text) > at:
                break
            chars += len(event.text)
            num_ids += len(event.token_ids)
        every = self.token_ids
        return Cut(chars if every else at, every[:num_ids], every[num_ids:])

    async def cut(self, at: int, decode: Decode) -> Cut:
        """The cut at or before character `at`. Errors of `decode` move it to the event boundary before."""
        kept: list[int] = []
        settled = 0  # number of ids in `kept` that are known to belong before the cut
        chars = 0
        ends_in_one = True  # the last event with text had one id: it can't have begun another character
        for event in self.events:
            if chars + len(event.text) > at:
                if not ends_in_one:
                    settled -= await self._num_partial(kept[:settled], decode)
                inside, inside_chars = await self._inside(event, at - chars, kept[:settled], kept[settled:], decode)
                if inside:
                    kept += inside
                    settled, chars = len(kept), chars + inside_chars
                break
            kept += event.token_ids
            chars += len(event.text)
            if event.text or self.marker_ids.intersection(event.token_ids):
                settled, ends_in_one = len(kept), len(event.token_ids) < 2
        every = self.token_ids
        if not every:
            return Cut(at, [], [])  # an upstream without ids is resumed by text, which can be cut anywhere
        return Cut(chars, every[:settled], every[settled:])

    async def _inside(
        self, event: LegEvent, room: int, before: list[int], unsettled: list[int], decode: Decode
    ) -> tuple[list[int], int]:
        """Ids at the head of `event` whose text fits in `room` characters, and that text's length.

        `unsettled` ids came without text before the event: the first bytes of its first character, if anything.
        """
        markers = self._leading_markers(event.token_ids)
        plain = [id for id in event.token_ids if id not in self.marker_ids]
        if room <= 0 or len(plain) < 2:
            return event.token_ids[:markers], 0
        context = [id for id in before[-_DECODE_CONTEXT_IDS:] if id not in self.marker_ids]
        try:
            base = await decode(context) if context else ""

            async def text_of(count: int) -> str:
                head = [id for id in event.token_ids[:count] if id not in self.marker_ids]
                return (await decode(context + unsettled + head))[len(base) :]

            count = await _largest(markers, len(event.token_ids) - 1, room, text_of)
            while count > markers and (text := await text_of(count)).endswith("\ufffd"):
                count -= 1  # the cut would fall inside a character
        except DecodeError:
            return event.token_ids[:markers], 0
        if count <= markers or not event.text.startswith(text):
            return event.token_ids[:markers], 0
        return event.token_ids[:count], len(text)

    async def _num_partial(self, kept: list[int], decode: Decode) -> int:
        """Ids at the end of `kept` that only begin a character: an event of several ids may end so."""
        count = 0
        try:
            while count < min(4, len(kept)) and kept[len(kept) - 1 - count] not in self.marker_ids:
                window = kept[max(0, len(kept) - count - _DECODE_CONTEXT_IDS) : len(kept) - count]
                if not (await decode([id for id in window if id not in self.marker_ids])).endswith("\ufffd"):
                    break
                count += 1
        except DecodeError:
            return 0
        return count

    def _leading_markers(self, ids: list[int]) -> int:
        return next((n for n, id in enumerate(ids) if id not in self.marker_ids), len(ids))


async def _largest(low: int, high: int, room: int, text_of: Callable[[int], Awaitable[str]]) -> int:
    """The largest count in [low, high] whose text is at most `room` characters, by bisection."""
    while low < high:
        middle = (low + high + 1) // 2
        if len((await text_of(middle)).rstrip("\ufffd")) <= room:
            low = middle
        else:
            high = middle - 1
    return low


class DecodeError(Exception):
    """Ids could not be decoded: the tokenizer or its endpoint failed."""
