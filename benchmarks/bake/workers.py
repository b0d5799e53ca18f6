"""Shares prompts out to processes: on a GPU most of a driven request's time is spent in Python, on one core."""

import multiprocessing as mp
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """`count` processes (or what `pool` has), started when first asked; 1: all is done in this one."""

    def __init__(self, count: int, pool: Executor | None = None) -> None:
        self._count = count
        self._pool = pool

    def each(self, work: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
        """What `work` gives for each item, in order; it is called with a share of them at a time."""
        if self._count == 1 or len(items) < self._count:
            return work(items)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self._count, mp_context=mp.get_context("spawn"), initializer=_quiet)
        # Every so manieth: what is long (harmful prompts come first) is spread evenly.
        shares = [items[first :: self._count] for first in range(self._count)]
        made = [iter(done) for done in self._pool.map(work, shares)]
        return [next(made[place % self._count]) for place in range(len(items))]

    def close(self) -> None:
        """Ends the processes."""
        if self._pool is not None:
            self._pool.shutdown()


def _quiet() -> None:
    from transformers.utils import logging  # noqa: PLC0415 - seconds, of a worker's alone

    logging.disable_progress_bar()
