"""Takes a random share of the choices that nothing halted into the log, off the hot path.

A request is drawn when it comes; what its choices say and how their segments score is collected beside the stream (no
copy of text is made before the end). Once a choice has ended untouched its sample waits in a bounded queue for a task
of its own to write it. Where that queue is full, the hour's budget is spent or the database fails, the sample is
dropped and counted: no stream waits for it.
"""

import hashlib
import logging
import time
import uuid
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from prometheus_client import Counter

from proxy.cut import LegTokens
from proxy.log.errors import LogError
from proxy.records import Transcript
from proxy.review.sample import Sample, SampleText, ScoredSegment
from steer.events import Channel, Classify

logger = logging.getLogger("steer.proxy")

# Samples of a few 100 kB each, waiting in memory.
_QUEUE = 16


class Keeper(Protocol):
    """Where samples go."""

    async def keep(self, sample: Sample) -> None:
        """Write one. Raises LogError."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """A choice that has ended; nothing of it changes any more."""

    transcript: Transcript
    tokens: LegTokens
    segments: list[ScoredSegment]
    finish_reason: str

    def sample(self) -> Sample:
        """Raises ValueError for text that no record could hold."""
        origin = self.transcript.origin
        text = SampleText(
            messages=origin.messages,
            tools=origin.tools,
            sampling=origin.sampling,
            parts=_merged(self.transcript.leg_parts),
            prompt_token_ids=self.transcript.prompt_ids,
            events=_events(self.tokens),
            segments=sorted(self.segments, key=lambda segment: segment.start),
        )
        if sum(chars for chars, _ in text.events) != len(text.text):  # a stop string, or markup: ids say more than text
            text = text.model_copy(update={"prompt_token_ids": None, "events": []})
        return Sample(
            id=f"s-{uuid.uuid4().hex}",
            request_id=origin.request_id,
            choice=origin.choice,
            tenant=origin.tenant,
            created_at=datetime.now(UTC),
            mode=origin.mode,
            model=origin.model,
            adapter=origin.adapter,
            policy_hash=origin.policy_hash,
            detector_hash=origin.detector_hash,
            finish_reason=self.finish_reason,
            max_score=max((segment.score or 0.0 for segment in self.segments), default=0.0),
            text=text,
        )


class SampledChoice:
    """Collects one choice beside its stream."""

    def __init__(self, sampler: "Sampler") -> None:
        self._sampler = sampler
        self._segments: list[ScoredSegment] = []

    def scored(self, segment: Classify, score: float | None) -> None:
        """A segment was judged."""
        self._segments.append(ScoredSegment(segment.channel, segment.start, segment.end, score))

    def ended(self, transcript: Transcript, tokens: LegTokens, finish_reason: str) -> None:
        """The choice has ended untouched: offer it. Returns at once."""
        self._sampler.offer(_Ended(transcript, tokens, self._segments, finish_reason))


class Sampler:
    """The sampling of one process: use as an async context manager; what waits at its end is still written."""

    def __init__(self, keeper: Keeper, counter: Counter, *, share: float, max_chars: int, per_hour: int) -> None:
        self._keeper, self._counter = keeper, counter
        self._share, self._max_chars, self._per_hour = share, max_chars, per_hour
        self._hour, self._taken = -1, 0
        self._send: MemoryObjectSendStream[_Ended] | None = None  # None: not open, nothing is taken
        self._stack = AsyncExitStack()
        for result in ("written", "queue_full", "hour_full", "too_long", "failed"):
            counter.labels(result)

    def draw(self, request_id: str) -> bool:
        """Whether this request is sampled: by its id alone, so that its choices are drawn together."""
        digest = hashlib.sha256(f"sample\x1f{request_id}".encode()).digest()
        return int.from_bytes(digest[:6], "big") / 2**48 < self._share

    def choice(self) -> SampledChoice:
        """A collector for one choice of a drawn request."""
        return SampledChoice(self)

    def offer(self, ended: _Ended) -> None:
        """Queue it, or drop and count it. Never waits."""
        hour = int(time.monotonic() // 3600)
        if hour != self._hour:
            self._hour, self._taken = hour, 0
        if sum(len(text) for _, text in ended.transcript.leg_parts) > self._max_chars:
            self._counter.labels("too_long").inc()
            return
        if self._taken >= self._per_hour:
            self._counter.labels("hour_full").inc()
            return
        try:
            if self._send is None:
                raise anyio.WouldBlock
            self._send.send_nowait(ended)
            self._taken += 1
        except anyio.WouldBlock:
            self._counter.labels("queue_full").inc()

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._send, inbox = anyio.create_memory_object_stream[_Ended](_QUEUE)
        tasks.start_soon(self._write_all, inbox)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._send is not None:
            self._send.close()
            self._send = None
        # The group is not told of the body's own error, which would come out wrapped in an exception group.
        await self._stack.__aexit__(None, None, None)

    async def _write_all(self, inbox: MemoryObjectReceiveStream[_Ended]) -> None:
        with inbox:
            async for ended in inbox:
                try:
                    await self._keeper.keep(await anyio.to_thread.run_sync(ended.sample))
                    self._counter.labels("written").inc()
                except (LogError, ValueError) as failure:
                    self._counter.labels("failed").inc()
                    reason = str(failure) if isinstance(failure, LogError) else "its text can't be stored"
                    logger.warning("a sample was dropped: %s", reason)


def _merged(parts: list[tuple[Channel, str]]) -> list[tuple[Channel, str]]:
    """Neighbours of one channel as one part."""
    merged: list[tuple[Channel, list[str]]] = []
    for channel, text in parts:
        if not merged or merged[-1][0] != channel:
            merged.append((channel, []))
        merged[-1][1].append(text)
    return [(channel, "".join(texts)) for channel, texts in merged]


def _events(tokens: LegTokens) -> list[tuple[int, list[int]]]:
    """Characters and ids of each event. Ids without text begin a character that the next event completes, and go with
    it; those of markers stay with what precedes them."""
    events: list[tuple[int, list[int]]] = []
    begun: list[int] = []
    for event in tokens.events:
        if event.text or tokens.marker_ids.intersection(event.token_ids):
            events.append((len(event.text), begun + event.token_ids))
            begun = []
        else:
            begun = begun + event.token_ids
    return [*events, (0, begun)] if begun else events
