"""How unlike a request is to what has been reviewed: words hashed into a bitmap, compared by shared bits.

A sketch is made of the last user message, kept in memory only, and forgotten with the process: hashes of words would
still be words to whoever has a dictionary.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

from detector.context import message_text

# A request of 200 different words sets a sixth of the bits: unlike requests still look unlike.
_BITS = 1024
_MAX_WORDS = 200
# Words of fewer letters are mostly grammar, which all requests share.
_WORD = re.compile(r"[^\W\d_]{4,}")

# Sketches of 128 bytes each; the queue's window is a tenth of it.
MAX_SKETCHES = 10_000

Sketch = int


def sketch(messages: Sequence[Mapping[str, Any]]) -> Sketch:
    """Of the last user message; 0 where it holds no words."""
    asked = [message for message in messages if message.get("role") == "user"]
    words = _WORD.findall(message_text(asked[-1]).lower()) if asked else []
    bits = 0
    for word in list(dict.fromkeys(words))[:_MAX_WORDS]:
        bits |= 1 << crc32(word.encode()) % _BITS
    return bits


def likeness(first: Sketch, second: Sketch) -> float:
    """Shared bits of all that either has: about the share of common words."""
    either = (first | second).bit_count()
    return (first & second).bit_count() / either if either else 0.0


def novelty(of: Sketch | None, reviewed: Iterable[Sketch]) -> float:
    """1 less the likeness to the most alike; 0 where there is no text to compare."""
    if not of:
        return 0.0
    return 1.0 - max((likeness(of, other) for other in reviewed), default=0.0)


class SketchCache:
    """Sketches by subject, the least used forgotten first. None: the subject has no text."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Sketch | None] = OrderedDict()

    def missing(self, ids: Iterable[str]) -> list[str]:
        """Those that are not known."""
        return [id for id in ids if id not in self._known]

    def put(self, id: str, made: Sketch | None) -> None:
        """Remember one."""
        self._known[id] = made
        self._known.move_to_end(id)
        while len(self._known) > MAX_SKETCHES:
            self._known.popitem(last=False)

    def get(self, id: str) -> Sketch | None:
        """A known one's."""
        return self._known.get(id)
