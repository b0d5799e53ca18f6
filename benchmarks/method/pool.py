"""Runs cells in processes of one machine, under a budget of seconds.

Rules kept here: the most urgent cell that has all it needs is started first; a cell that the budget can't hold any more
is not begun; at the end of the budget what is still running is stopped (its own processes alone); a cell that fails is
recorded with its error and costs only those that need it. Each worker imports the heavy libraries once.
"""

import multiprocessing as mp
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from benchmarks.method.cells import Cell
from benchmarks.method.places import Places
from benchmarks.method.sizes import Sizes

# Threads of libraries multiply with the workers: each worker has one, and the classifier its own setting.
_ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_QUIET = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
_POLL_SECONDS = 1.0
_MEMORY_SHARE = 0.9  # of the device's; the rest is for what each process needs to be there at all


@dataclass(slots=True)
class Outcome:
    """What became of the cells of one start."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_begun: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    cell: Cell | None = None
    began: float = 0.0


def run_here(cells: Sequence[Cell], sizes: Sizes, places: Places) -> Outcome:
    """One after the other, in this process. An error of a cell is raised."""
    outcome = Outcome()
    for cell in cells:
        if not places.done(cell.id):
            places.save(cell.id, run_cell(cell, sizes, places))
            outcome.finished.append(cell.id)
    return outcome


def run_pool(
    cells: Sequence[Cell], sizes: Sizes, places: Places, *, workers: int, budget_s: float, say: Callable[[str], None]
) -> Outcome:
    """`workers` at a time, until all is done or `budget_s` seconds are over."""
    os.environ.update(_QUIET | dict.fromkeys(_ONE_THREAD, "1"))  # the workers read them while they import
    return _Run(cells, sizes, places, workers, budget_s, say).go()


class _Run:
    def __init__(
        self,
        cells: Sequence[Cell],
        sizes: Sizes,
        places: Places,
        count: int,
        budget_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._count = count
        self._by_id = {cell.id: cell for cell in cells}
        self._waiting = [cell for cell in cells if not places.done(cell.id)]
        self._sizes, self._places, self._say = sizes, places, say
        self._began = time.monotonic()
        self._end = self._began + budget_s
        self._outcome = Outcome()

    def go(self) -> Outcome:
        workers = [self._start() for _ in range(min(self._count, len(self._waiting)))]
        try:
            while (self._waiting or any(worker.cell for worker in workers)) and time.monotonic() < self._end:
                for worker in workers:
                    self._hand_out(worker)
                if not any(worker.cell for worker in workers):
                    break  # what is left needs what failed, or does not fit
                ready = wait([worker.pipe for worker in workers if worker.cell], timeout=_POLL_SECONDS)
                for worker in workers:
                    if worker.pipe in ready:
                        self._take(worker)
        finally:
            self._outcome.stopped = [worker.cell.id for worker in workers if worker.cell]
            self._outcome.not_begun = [cell.id for cell in self._waiting]
            for worker in workers:
                worker.process.kill()
                worker.process.join()
        return self._outcome

    def _start(self) -> _Worker:
        context = mp.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there, self._sizes, self._places, self._count), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)

    def _hand_out(self, worker: _Worker) -> None:
        if worker.cell is not None:
            return
        left = self._end - time.monotonic()
        for cell in self._waiting:
            if cell.seconds <= left and self._is_ready(cell):
                self._waiting.remove(cell)
                worker.cell, worker.began = cell, time.monotonic()
                worker.pipe.send(cell)
                return

    def _is_ready(self, cell: Cell) -> bool:
        done = [self._places.done(need) for need in cell.needs]
        if cell.is_lenient and any(done):
            return all(d or self._is_lost(need) for need, d in zip(cell.needs, done, strict=True))
        return all(done)

    def _is_lost(self, id: str) -> bool:
        """Whether a cell has failed, or can't be run any more because of one that has."""
        cell = self._by_id.get(id)
        if id in self._outcome.failed or cell is None or self._places.done(id):
            return id in self._outcome.failed
        lost = [self._is_lost(need) for need in cell.needs]
        return bool(lost) and (all(lost) if cell.is_lenient else any(lost))

    def _take(self, worker: _Worker) -> None:
        cell = worker.cell
        assert cell is not None, "only a worker that has a cell is waited for"
        try:
            error: str | None = worker.pipe.recv()
        except (EOFError, OSError):
            worker.process.join()
            error = f"its process ended with code {worker.process.exitcode}"
            fresh = self._start()
            worker.process, worker.pipe = fresh.process, fresh.pipe
        worker.cell = None
        took, at = time.monotonic() - worker.began, time.monotonic() - self._began
        if error is None:
            self._outcome.finished.append(cell.id)
        else:
            self._outcome.failed[cell.id] = error
        what = "done" if error is None else f"FAILED: {error.strip().splitlines()[-1]}"
        self._say(f"{at:6.0f} s  {cell.id:34} {took:6.1f} s  {what}")


def _serve(pipe: Connection, sizes: Sizes, places: Places, count: int) -> None:
    """A worker: cells in, None or the text of an error out. What it prints goes to a file of its own."""
    logs = places.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"worker-{os.getpid()}.log").open("w", encoding="utf-8") as log:
        for stream in (1, 2):  # the libraries' own handlers, too
            os.dup2(log.fileno(), stream)
    _share_memory(count)
    while True:
        try:
            cell: Cell = pipe.recv()
        except EOFError:
            return
        error = None
        sys.stderr.write(f"== {cell.id}\n")
        try:
            places.save(cell.id, run_cell(cell, sizes, places))
        except Exception as problem:  # noqa: BLE001 - one cell's failure is recorded, the others go on
            error = f"{type(problem).__name__}: {problem}"
            traceback.print_exc()
        pipe.send(error)


def _share_memory(count: int) -> None:
    """A worker's caches must not take the device's memory from the others: it frees them at its own share."""
    import torch  # noqa: PLC0415 - a worker's first act; the process that hands out cells loads none

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(_MEMORY_SHARE / count)


def run_cell(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """The cell's document."""
    began = time.monotonic()
    figures = _work(cell.kind)(cell, sizes, places)
    head = {"cell": cell.name, "seed": cell.seed, "kind": cell.kind, "options": dict(cell.options)}
    return head | {"wall": round(time.monotonic() - began, 2), **figures}


def _work(kind: str) -> Callable[[Cell, Sizes, Places], dict[str, Any]]:
    """Imported when first needed: the process that hands out cells loads no torch."""
    from benchmarks.method import choosing, evidence, making, measuring, training  # noqa: PLC0415

    kinds = {"rollout": making.rollout, "pairs": making.pairs, "choose": choosing.choose, "train": training.train}
    kinds |= {"measure": measuring.measure, "drive": measuring.drive}
    kinds |= {"csr": evidence.csr, "mine": evidence.mine, "kl": evidence.kl}
    return kinds[kind]


def default_workers() -> int:
    """Some cores are left to the threads of the classifier."""
    return max(1, len(os.sched_getaffinity(0)) * 3 // 4)
