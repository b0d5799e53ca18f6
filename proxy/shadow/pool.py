"""Copies that wait and copies in work, both bounded. Whatever does not fit, or fails, is dropped and counted.

Rules kept here
- `offer` never waits and never raises: a client's stream does not know of copies. A copy begins when the client's own
  answer is over, so the two never compete, and neither ends with the other.
- What is no longer in shadow (another champion, the kill switch) has no copies in work a moment later.
- An engine that does not know the version ends the shadow, with that reason.
- At the end of the process copies are dropped, not waited for.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from proxy.adapters.router import Router, Shadowed
from proxy.errors import UpstreamError, UpstreamStatusError
from proxy.log.errors import LogError
from proxy.metrics import Metrics
from proxy.shadow.answer import Answer, CopyMade, Unusable

logger = logging.getLogger("steer.proxy")

# A copy that takes longer has hung: it must not hold its place for ever.
COPY_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Copy:
    """A request to be answered once more. `champion`: what its client got; None where it left before the end."""

    shadowed: Shadowed
    champion: Answer | None
    run: Callable[[], Awaitable[CopyMade]]


class Keeper(Protocol):
    """Where copies are recorded."""

    async def keep(self, copy: Copy, made: CopyMade) -> bool:
        """One that was answered; False where its shadow has ended, or a purge covers it. Raises LogError."""

    async def end(self, adapter: str, reason: str) -> None:
        """The version is in shadow no more. Raises LogError."""


class ShadowPool:
    """One a process: use as an async context manager."""

    def __init__(self, router: Router, keeper: Keeper, metrics: Metrics, *, copies: int, queue: int) -> None:
        self._router, self._keeper, self._metrics = router, keeper, metrics
        self._copies, self._queue = copies, queue
        self._send: MemoryObjectSendStream[Copy] | None = None  # None: not open, nothing is taken
        self._at_work: dict[int, set[anyio.CancelScope]] = {}
        self._has_told = False
        self._stack = AsyncExitStack()

    def offer(self, copy: Copy) -> None:
        """Queue it, or drop and count it."""
        try:
            if self._send is None:
                raise anyio.WouldBlock
            self._send.send_nowait(copy)
        except anyio.WouldBlock:
            self.drop(copy.shadowed, "busy")

    def drop(self, shadowed: Shadowed, reason: str) -> None:
        """A copy that is not made, or not to its end."""
        self._router.copy_dropped(shadowed.id)
        self._metrics.shadow_dropped.labels(self._label(shadowed), reason).inc()

    def _label(self, shadowed: Shadowed) -> str:
        return self._metrics.bounded("adapter", shadowed.adapter)

    def _keep_only(self, ids: frozenset[int]) -> None:
        for id, scopes in self._at_work.items():
            if id not in ids:
                for scope in scopes:
                    scope.cancel()

    async def __aenter__(self) -> Self:
        tasks = await self._stack.enter_async_context(anyio.create_task_group())
        self._send, inbox = anyio.create_memory_object_stream[Copy](self._queue)
        self._router.on_shadows = self._keep_only
        for _ in range(self._copies):
            tasks.start_soon(self._work, inbox.clone())
        inbox.close()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._send is not None:
            self._send.close()
            self._send = None
        self._keep_only(frozenset())
        # The group is not told of the body's own error, which would come out wrapped in an exception group.
        await self._stack.__aexit__(None, None, None)

    async def _work(self, inbox: MemoryObjectReceiveStream[Copy]) -> None:
        with inbox:
            async for copy in inbox:
                await self._make(copy)

    async def _make(self, copy: Copy) -> None:
        shadowed = copy.shadowed
        if self._send is None or shadowed.id not in self._router.shadows:
            self.drop(shadowed, "ended")
            return
        scopes = self._at_work.setdefault(shadowed.id, set())
        with anyio.move_on_after(COPY_TIMEOUT_S) as scope:
            scopes.add(scope)
            try:
                await self._make_one(copy)
            finally:
                scopes.discard(scope)
                if not scopes:
                    self._at_work.pop(shadowed.id, None)
        if scope.cancelled_caught:
            self.drop(shadowed, "ended")

    async def _make_one(self, copy: Copy) -> None:
        shadowed = copy.shadowed
        try:
            made = await copy.run()
            if not await self._keeper.keep(copy, made):
                self.drop(shadowed, "ended")
                return
        except Unusable as error:
            self.drop(shadowed, error.reason)
            return
        except UpstreamStatusError as error:
            self.drop(shadowed, "refused")
            if error.status == 404:
                await self._lost(shadowed)
            return
        except (UpstreamError, LogError) as error:
            self.drop(shadowed, "unwritten" if isinstance(error, LogError) else "unreachable")
            self._say(error)
            return
        except Exception as error:  # noqa: BLE001 - nobody is waiting; the message might quote text
            self.drop(shadowed, "error")
            self._say(error)
            return
        self._has_told = False
        self._count(shadowed, "shadow", made.answer)
        if copy.champion is not None:
            self._count(shadowed, "champion", copy.champion)

    def _say(self, error: Exception) -> None:
        """Once, not at every copy of an outage."""
        if not self._has_told:
            self._has_told = True
            is_ours = isinstance(error, UpstreamError | LogError)
            logger.warning("copies for shadow are dropped: %s", error if is_ours else type(error).__name__)

    async def _lost(self, shadowed: Shadowed) -> None:
        self._router.lost(shadowed.adapter)
        try:
            await self._keeper.end(shadowed.adapter, f"the engine no longer knows {shadowed.adapter}")
        except LogError as error:
            logger.warning("%s could not be taken out of shadow: %s", shadowed.adapter, error)

    def _count(self, shadowed: Shadowed, side: str, answer: Answer) -> None:
        label = self._label(shadowed)
        self._metrics.shadow_answers.labels(label, side, answer.outcome).inc()
        self._metrics.shadow_interventions.labels(label, side).inc(answer.interventions)
        self._metrics.shadow_tokens.labels(label, side).inc(answer.tokens)
