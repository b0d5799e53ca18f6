"""The clocks of the detector's benchmark: CPU time of the process, as the core is shared, and wall time beside it."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Seconds(NamedTuple):
    """One measurement, or the difference of two."""

    cpu: float
    wall: float

    def since(self) -> "Seconds":
        """How long ago this was."""
        return Seconds(time.process_time() - self.cpu, time.perf_counter() - self.wall)


def timed(work: Callable[[], object]) -> Seconds:
    started = Seconds(time.process_time(), time.perf_counter())
    work()
    return started.since()


def percentiles(seconds: list[Seconds]) -> dict[str, float]:
    """p50 and p95 of CPU and of wall time in milliseconds, the mean of CPU time, and how many were measured."""
    cpu, wall = (np.array(values) * 1000 for values in zip(*seconds, strict=True))
    quantiles = {"p50_ms": (cpu, 0.5), "p95_ms": (cpu, 0.95), "wall_p50_ms": (wall, 0.5), "wall_p95_ms": (wall, 0.95)}
    found = {name: round(float(np.quantile(values, q)), 3) for name, (values, q) in quantiles.items()}
    return found | {"mean_ms": round(float(cpu.mean()), 3), "count": len(seconds)}
