"""Finished blocks to disk, and how fast they come: of the job over all its starts, and of each worker of a cluster.

OUT/progress.json    seconds spent, and what each worker has made; figures of speed alone, nothing resumes from them
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from train.rollout.store import LineStore, write_json
from train.rollout.work import Made

_PROGRESS = "progress.json"


@dataclass(frozen=True, slots=True)
class Finished:
    """A block. `worker` None: made in this process; else `seconds` have passed since that worker began its first."""

    made: list[Made]
    worker: str | None = None
    seconds: float = 0.0


Keep = Callable[[Finished], None]


class Keeper:
    """Writes blocks as they come. A rollout that is on disk already is not written again."""

    def __init__(self, store: LineStore, out: Path, bar: "tqdm[Any]") -> None:
        self._store, self._out, self._bar = store, out, bar
        before = _read(out)
        self._before, self._began, self._tokens = float(before.get("seconds", 0.0)), time.monotonic(), 0
        self._workers: dict[str, dict[str, float]] = dict(before.get("workers", {}))

    def __call__(self, finished: Finished) -> None:
        new = [made for made in finished.made if made.id not in self._store]
        for made in new:
            self._store.append(made.id, made.line)
            self._bar.update()
        tokens, seconds = sum(made.tokens for made in new), time.monotonic() - self._began
        self._tokens += tokens
        if finished.worker is not None:
            own = self._workers.setdefault(finished.worker, {"blocks": 0, "prompts": 0, "tokens": 0, "seconds": 0.0})
            own["blocks"] += 1
            own["prompts"] += len(new)
            own["tokens"] += tokens
            own["seconds"] = max(own["seconds"], round(finished.seconds, 3))
        workers = {"workers": self._workers} if self._workers else {}
        write_json(self._out / _PROGRESS, {"seconds": self._before + seconds, **workers})
        self._bar.set_postfix_str(f"{self._tokens / max(seconds, 1e-9):.0f} tokens/s")


def seconds_spent(out: Path) -> float:
    """Wall seconds spent by every start of the job, up to the last finished block."""
    return float(_read(out).get("seconds", 0.0))


def worker_table(out: Path) -> dict[str, dict[str, float]]:
    """What each worker made, by host and process; empty where no cluster worked."""
    workers: Mapping[str, dict[str, float]] = _read(out).get("workers", {})
    return {
        name: {**own, "tokens_per_second": round(own["tokens"] / own["seconds"], 1) if own["seconds"] else 0.0}
        for name, own in sorted(workers.items())
    }


def _read(out: Path) -> dict[str, Any]:
    try:
        read = json.loads((out / _PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return read if isinstance(read, dict) else {}
