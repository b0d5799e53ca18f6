"""The queue between many streams and a few single-thread workers.

Overload behaviour: a full queue refuses at once with `Overloaded`; it never makes a client wait for room, and never
drops what it has accepted. What the refusal means (refuse or pass) is the policy's `on_failure`, not decided here.
A client that stops waiting (cancelled, disconnected) leaves the queue: its segment is not scored unless already begun.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self

import anyio
import anyio.to_thread

from detector.artifact import Artifact
from detector.classifier import CueClassifier, Model
from detector.context import Context, Message
from detector.errors import DetectorError, Overloaded

# At 1.5 ms a segment, 256 waiting segments delay the last by 0.4 s on one worker: later than that, a verdict is late.
DEFAULT_MAX_PENDING = 256


class Scorer(Protocol):
    """What the queue needs of a classifier."""

    def score(self, contexts: Sequence[Context]) -> list[float]: ...

    def request_harm(self, messages: Sequence[Message]) -> float: ...


class _Job:
    """One thing to compute. `done` is set once `score` or `error` is."""

    __slots__ = ("context", "done", "error", "messages", "score")

    def __init__(self, context: Context | None, messages: Sequence[Message]) -> None:
        self.context = context
        self.messages = messages
        self.done = anyio.Event()
        self.score = 0.0
        self.error: DetectorError | None = None


class ScoringQueue:
    """`async with ScoringQueue(artifact) as queue: score = await queue.score(context)`.

    `workers` threads score at the same time, first come, first served. `max_pending` bounds what waits or is being
    scored. `classifiers` replaces the artifact's own (one for each worker), to embed another scorer.
    """

    def __init__(
        self,
        artifact: Artifact | None,
        workers: int = 1,
        max_pending: int = DEFAULT_MAX_PENDING,
        classifiers: Sequence[Scorer] | None = None,
    ) -> None:
        if classifiers is None:
            if artifact is None:
                raise ValueError("give an artifact, or classifiers of your own")
            if workers < 1:
                raise ValueError(f"workers must be at least 1, not {workers}")
            model = Model(artifact)
            classifiers = [CueClassifier(artifact, model) for _ in range(workers)]
        if max_pending < 1:
            raise ValueError(f"max_pending must be at least 1, not {max_pending}")
        self._classifiers = classifiers
        self._max_pending = max_pending
        self._waiting: deque[_Job] = deque()
        self._in_flight = 0
        self._is_open = False
        self._arrivals = anyio.Semaphore(0)  # one token for each job put in; a job that left leaves its token behind
        self._stack = AsyncExitStack()

    @property
    def pending(self) -> int:
        """Segments that wait or are being scored."""
        return len(self._waiting) + self._in_flight

    async def score(self, context: Context) -> float:
        """Probability that the segment is a compliance cue.

        Raises `Overloaded` when the queue is full, `DetectorError` when scoring fails or the queue is closed.
        """
        return await self._submit(_Job(context, context.messages))

    async def prepare(self, messages: Sequence[Message]) -> float:
        """Encode a conversation's request ahead of its first segment, while the model still reads the prompt.

        Returns the probability that the request is harmful; raises like `score`. Optional: `score` does it if need be.
        """
        return await self._submit(_Job(None, messages))

    async def _submit(self, job: _Job) -> float:
        if not self._is_open:
            raise DetectorError("the scoring queue is closed; enter it with `async with` before scoring")
        if self.pending >= self._max_pending:
            raise Overloaded(f"{self.pending} segments wait for a verdict; add workers or raise max_pending")
        self._waiting.append(job)
        self._arrivals.release()
        try:
            await job.done.wait()
        finally:
            if not job.done.is_set() and job in self._waiting:
                self._waiting.remove(job)
        if job.error is not None:
            raise job.error
        return job.score

    async def _work(self, classifier: Scorer) -> None:
        limiter = anyio.CapacityLimiter(1)
        while True:
            await self._arrivals.acquire()
            if self._waiting:
                await self._run(classifier, self._waiting.popleft(), limiter)
            elif not self._is_open:
                return

    async def _run(self, classifier: Scorer, job: _Job, limiter: anyio.CapacityLimiter) -> None:
        self._in_flight += 1
        try:
            job.score = await anyio.to_thread.run_sync(_compute, classifier, job, limiter=limiter)
        except Exception as error:  # noqa: BLE001 - whatever a scorer raises must reach the client that waits
            job.error = DetectorError(f"the classifier failed: {error!r}")
            job.error.__cause__ = error
        except BaseException:
            job.error = DetectorError("the scoring queue was cancelled")
            raise
        finally:
            self._in_flight -= 1
            job.done.set()

    async def __aenter__(self) -> Self:
        group = await self._stack.enter_async_context(anyio.create_task_group())
        self._is_open = True
        for classifier in self._classifiers:
            group.start_soon(self._work, classifier)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop taking segments, fail those that wait, let those that are being scored end."""
        self._is_open = False
        while self._waiting:
            job = self._waiting.popleft()
            job.error = DetectorError("the scoring queue was closed")
            job.done.set()
        for _ in self._classifiers:
            self._arrivals.release()
        return await self._stack.__aexit__(kind, value, trace)


def _compute(classifier: Scorer, job: _Job) -> float:
    if job.context is None:
        return classifier.request_harm(job.messages)
    return classifier.score([job.context])[0]
