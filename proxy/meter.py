"""Measures one choice from the outside: wraps the detector and the log that its session uses.

A meter never changes what passes through it, and fails no stream.
"""

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from detector.context import Context, Message
from detector.errors import Overloaded
from proxy.journal import Log
from proxy.judge import VERDICT_TIMEOUT_S, Scorer
from proxy.log.errors import LogError
from proxy.metrics import Metrics
from steer.record import Completion, InterventionRecord

# Records open at a time in one process, far beyond what one serves; the oldest are then counted without their labels.
_MAX_OPEN = 10_000


class Meter(Scorer, Protocol):
    """What a session tells of its choice; its scorer too."""

    def text_came(self) -> None:
        """The engine has sent text."""

    def text_shown(self) -> None:
        """Text went out to the client."""

    def refused(self, cause: str) -> None:
        """The choice ends in a refusal."""

    def ended(self, *, upstream_failed: bool) -> None:
        """The choice is over, however. Repeatable."""


class StreamMeter:
    """One choice: a detector (`proxy.judge.Scorer`) that measures, and the moments that a session tells it of."""

    def __init__(self, scorer: Scorer, metrics: Metrics, *, choice: int, streams: bool, threshold: float = 1.0) -> None:
        """`threshold`: where the stream is halted. One that is halted earlier than the reference's is not compared."""
        self._scorer = scorer
        self._metrics = metrics
        self._streams = streams
        # Choices of one request resemble each other: one of them stands for all where traffic is compared.
        is_compared = metrics.drift is not None and choice == 0 and threshold >= metrics.drift.reference.stop
        self._trace = metrics.drift.trace() if metrics.drift is not None and is_compared else None
        self._counts_request = choice == 0
        self._text_came: float | None = None
        self._is_shown = False
        self._has_ended = False

    async def prepare(self, messages: Sequence[Message]) -> float:
        """The detector's own, measured."""
        with self._metrics.waiting.track_inprogress():
            harm = await self._scorer.prepare(messages)
        if self._counts_request and 0 <= harm <= 1:
            self._metrics.request_harm.observe(harm)
            if self._trace is not None:
                self._trace.request(harm)
        return harm

    async def score(self, context: Context) -> float:
        """The detector's own, measured."""
        metrics, started = self._metrics, time.monotonic()
        try:
            with metrics.waiting.track_inprogress():
                score = await self._scorer.score(context)
        except Overloaded:
            metrics.verdict_failures.labels("overloaded").inc()
            raise
        except Exception:
            metrics.verdict_failures.labels("error").inc()
            raise
        except BaseException:  # cancelled: by the bound on verdicts, or because the client has left
            if time.monotonic() - started >= VERDICT_TIMEOUT_S:
                metrics.verdict_failures.labels("timeout").inc()
            raise
        if not 0 <= score <= 1:
            metrics.verdict_failures.labels("error").inc()
            return score
        metrics.verdict.observe(time.monotonic() - started)
        metrics.segment_scores.labels(context.channel).observe(score)
        if self._trace is not None and context.channel == "reasoning":  # what the reference is made of
            self._trace.segment(score)
        return score

    def text_came(self) -> None:
        """The engine has sent text."""
        if self._text_came is None:
            self._text_came = time.monotonic()

    def text_shown(self) -> None:
        """Text went out to the client; before a first verdict that is what the proxy adds."""
        if not self._is_shown and self._text_came is not None:
            self._is_shown = True
            if self._streams:
                self._metrics.first_token.observe(time.monotonic() - self._text_came)

    def refused(self, cause: str) -> None:
        """The choice ends in a refusal."""
        self._metrics.refusals.labels(cause).inc()

    def ended(self, *, upstream_failed: bool) -> None:
        """The choice is over, however. Repeatable."""
        if self._has_ended:
            return
        self._has_ended = True
        if upstream_failed:
            self._metrics.upstream_errors.labels("leg").inc()
        if self._trace is not None:
            self._metrics.trace_ended(self._trace)


class _Halt(NamedTuple):
    category: str
    trigger: str


class MeteredLog:
    """An intervention log that counts what it has made durable."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._open: OrderedDict[str, _Halt] = OrderedDict()

    async def insert(self, record: InterventionRecord) -> None:
        """First phase."""
        bounded = self._metrics.bounded
        self._open[record.id] = _Halt(bounded("category", record.category), bounded("trigger", record.trigger_id))
        while len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        try:
            await self._log.insert(record)
        except LogError:
            self._metrics.log_failures.labels("insert").inc()
            raise

    async def complete(self, record_id: str, completion: Completion) -> None:
        """Second phase."""
        halt = self._open.pop(record_id, _Halt("none", "none"))
        try:
            await self._log.complete(record_id, completion)
        except LogError:
            self._metrics.log_failures.labels("complete").inc()
            raise
        self._metrics.interventions.labels(completion.outcome, halt.category, halt.trigger).inc()
        timings = completion.timings
        if timings.resumed_ms is not None and completion.outcome != "observed":
            self._metrics.halt_to_resume.observe(max(0.0, timings.resumed_ms - timings.halted_ms) / 1e3)
