"""Continuous batching in one thread: a step decodes one token for all running sequences; new ones join between steps.

`Engine.generate` is an async iterator of tokens; leaving it (client gone, stop string found) aborts the sequence before
the next step. The queue of waiting requests is bounded only by memory; running ones by `slots`.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from proxy.embedded.errors import EngineFailed
from proxy.embedded.model import Cache, Model
from proxy.embedded.sampling import SamplingParams, TokenPicker

FinishReason = Literal["stop", "length"]
# Prompts taken in between two decode steps: more would hold up the running streams.
_PREFILLS_PER_STEP = 2


class Token(NamedTuple):
    """A generated token; `finish_reason` is set on the last one (the end-of-turn token itself when it is "stop")."""

    id: int
    finish_reason: FinishReason | None


@dataclass(slots=True)
class _Sequence:
    prompt: list[int]
    params: SamplingParams
    picker: TokenPicker
    loop: asyncio.AbstractEventLoop
    tokens: "asyncio.Queue[Token | EngineFailed]"
    num_generated: int = 0
    last: int = 0
    is_aborted: threading.Event = field(default_factory=threading.Event)

    def send(self, item: Token | EngineFailed) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(self.tokens.put_nowait, item)


@dataclass(slots=True)
class Counters:
    """Totals since the start, and gauges; read by the metrics page."""

    prompt_tokens: int = 0
    generation_tokens: int = 0
    running: int = 0
    finished: dict[str, int] = field(default_factory=lambda: {"stop": 0, "length": 0, "abort": 0})


class Engine:
    """Start with `start`, end with `close`; both may be called once."""

    def __init__(self, model: Model, *, slots: int = 8) -> None:
        self.model, self.counters = model, Counters()
        self._cache = Cache(model, slots)
        self._slots = slots
        self._waiting: queue.Queue[_Sequence | None] = queue.Queue()
        self._running: list[_Sequence] = []
        self._thread = threading.Thread(target=self._loop, name="embedded-engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; running sequences are dropped."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    @property
    def num_waiting(self) -> int:
        return self._waiting.qsize()

    async def generate(
        self, prompt: Sequence[int], params: SamplingParams, salt: int = 0
    ) -> AsyncGenerator[Token, None]:
        """Tokens as they come; raises EngineFailed. The prompt must not be empty and leaves room for a token."""
        sequence = _Sequence(
            list(prompt), params, TokenPicker(params, salt), asyncio.get_running_loop(), asyncio.Queue()
        )
        self._waiting.put(sequence)
        try:
            while True:
                item = await sequence.tokens.get()
                if isinstance(item, EngineFailed):
                    raise item
                yield item
                if item.finish_reason is not None:
                    return
        finally:
            sequence.is_aborted.set()

    # ---- the engine's own thread ----
    def _loop(self) -> None:
        while self._admit():
            if not self._running:
                continue
            try:
                self._decode()
            except Exception as error:  # noqa: BLE001  (a step must not end the thread: all waiting clients would hang)
                self._fail(error)

    def _admit(self) -> bool:
        """Take in waiting sequences; waits only when nothing runs. False: the engine is closed."""
        for _ in range(_PREFILLS_PER_STEP):
            if len(self._running) >= self._slots:
                return True
            try:
                sequence = self._waiting.get(block=not self._running)
            except queue.Empty:
                return True
            if sequence is None:
                return False
            if not sequence.is_aborted.is_set():
                self._prefill(sequence)
        return True

    def _prefill(self, sequence: _Sequence) -> None:
        try:
            logits = self._cache.prefill(sequence.prompt)
        except Exception as error:  # noqa: BLE001  (handed to the one who asked)
            sequence.send(EngineFailed(f"the prompt could not be processed: {error}"))
            return
        self.counters.prompt_tokens += len(sequence.prompt)
        self._running.append(sequence)
        self._take(len(self._running) - 1, sequence.picker.pick(logits))
        self.counters.running = len(self._running)

    def _decode(self) -> None:
        self._drop_aborted()
        if not self._running:
            return
        logits = self._cache.decode([sequence.last for sequence in self._running])
        for slot in reversed(range(len(self._running))):
            self._take(slot, self._running[slot].picker.pick(logits[slot]))
        self.counters.running = len(self._running)

    def _take(self, slot: int, token: int) -> None:
        """Hand a token out; end the sequence when it is its last."""
        sequence = self._running[slot]
        sequence.last = token
        sequence.num_generated += 1
        self.counters.generation_tokens += 1
        is_full = len(sequence.prompt) + sequence.num_generated >= self.model.max_length
        reason: FinishReason | None = None
        if token == self.model.eos_id and not sequence.params.ignore_eos:
            reason = "stop"
        elif is_full or sequence.num_generated >= sequence.params.max_tokens:
            reason = "length"
        sequence.send(Token(token, reason))
        if reason is not None:
            self._drop(slot, reason)

    def _drop_aborted(self) -> None:
        for slot in reversed(range(len(self._running))):
            if self._running[slot].is_aborted.is_set():
                self._drop(slot, "abort")
        self.counters.running = len(self._running)

    def _drop(self, slot: int, reason: str) -> None:
        self.counters.finished[reason] += 1
        self._cache.drop(slot)
        last = self._running.pop()
        if slot < len(self._running):
            self._running[slot] = last

    def _fail(self, error: Exception) -> None:
        for slot in reversed(range(len(self._running))):
            self._running[slot].send(EngineFailed(f"a decoding step failed: {error}"))
            self._drop(slot, "abort")
        self.counters.running = 0
