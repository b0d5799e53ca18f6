"""The detector, as a session asks it: one conversation, a bounded number of segments at a time, always an answer.

Rules kept here: a verdict that takes too long, an error of any kind and a score that is no probability are all the same
to the policy: the segment could not be judged. Messages of foreign errors are not logged, for they might quote text.
"""

import logging
from collections.abc import Sequence
from typing import Protocol

import anyio

from detector.context import Context, Message
from detector.errors import DetectorError
from steer.events import Classify

logger = logging.getLogger("steer.proxy")

# Segments of one stream that are judged at a time. A live stream has one or two; a finished body, or a slow detector,
# meets the bound, and no stream can fill the detector's queue alone.
MAX_UNDECIDED = 8
# A verdict that takes longer is a failed one: a hanging detector must not hold a stream open for ever.
VERDICT_TIMEOUT_S = 30.0


class Scorer(Protocol):
    """The detector, as far as the proxy knows it."""

    async def score(self, context: Context) -> float:
        """Probability that the context's segment is a compliance cue. Raises DetectorError."""

    async def prepare(self, messages: Sequence[Message]) -> float:
        """Read a conversation ahead of its first segment. Raises DetectorError."""


class Judge:
    """Scores the segments of one conversation."""

    def __init__(self, scorer: Scorer, messages: tuple[Message, ...], request_id: str) -> None:
        self._scorer = scorer
        self._messages = messages
        self._request_id = request_id
        self.room = anyio.Semaphore(MAX_UNDECIDED)

    async def prepare(self) -> None:
        """The detector reads the conversation while the engine does: the first verdict comes sooner."""
        try:
            await self._scorer.prepare(self._messages)
        except DetectorError:
            pass  # the first segment's own scoring will tell
        except Exception as error:  # noqa: BLE001 - reading ahead is a favour: no stream may fail by it
            logger.error("request %s: the detector could not read ahead: %s", self._request_id, type(error).__name__)

    async def score(self, segment: Classify) -> float | None:
        """The segment's score; None where it could not be judged. Call while holding `room`."""
        context = Context(
            messages=self._messages, reasoning_before=segment.before, segment=segment.text, channel=segment.channel
        )
        try:
            with anyio.fail_after(VERDICT_TIMEOUT_S):
                score = await self._scorer.score(context)
        except (DetectorError, TimeoutError) as error:
            reason = str(error) or f"no verdict within {VERDICT_TIMEOUT_S:.0f} s"
            logger.warning("request %s: a segment could not be judged: %s", self._request_id, reason)
            return None
        except Exception as error:  # noqa: BLE001 - of the type alone: the message might quote the text
            logger.error("request %s: the detector failed: %s", self._request_id, type(error).__name__)
            return None
        if not 0 <= score <= 1:
            logger.error("request %s: the detector's score %r is no probability", self._request_id, score)
            return None
        return score
