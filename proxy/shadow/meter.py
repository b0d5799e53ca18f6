"""The detector and the log as a copy has them: no figure of clients' traffic moves, no client's segment waits long."""

from collections.abc import Sequence

import anyio

from detector.context import Context, Message
from proxy.judge import Scorer
from steer.record import Completion, InterventionRecord


class ShadowMeter:
    """Scores for one copy (`proxy.meter.Meter`). `turn`: one segment of all copies is scored at a time."""

    def __init__(self, scorer: Scorer, turn: anyio.Semaphore) -> None:
        self._scorer = scorer
        self._turn = turn
        self.has_failed = False

    async def prepare(self, messages: Sequence[Message]) -> float:
        """Only a favour, and not for copies."""
        return 0.0

    async def score(self, context: Context) -> float:
        """The detector's own. A copy with a segment that could not be judged says nothing of the version."""
        try:
            async with self._turn:
                return await self._scorer.score(context)
        except BaseException:
            self.has_failed = True
            raise

    def text_came(self) -> None:
        """Not measured, as all that follows."""

    def text_shown(self) -> None:
        """Never to anybody."""

    def refused(self, cause: str) -> None:
        """Told by its outcome."""

    def ended(self, *, upstream_failed: bool) -> None:
        """Told by its outcome."""


class ShadowLog:
    """Keeps a copy's records apart (`proxy.journal.Log`)."""

    def __init__(self) -> None:
        self.records: dict[str, InterventionRecord] = {}
        self.completions: dict[str, Completion] = {}

    async def insert(self, record: InterventionRecord) -> None:
        """First phase."""
        self.records[record.id] = record

    async def complete(self, record_id: str, completion: Completion) -> None:
        """Second phase."""
        self.completions[record_id] = completion
