"""Remembers verdicts on disk, so that no trace is judged twice and a job that a dead judge stopped goes on.

One JSON line a verdict, keyed by the judge's name and the item; a line that a kill cut short is dropped. The file holds
hashes and verdicts, no text.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from train.judges.base import Judge, JudgeItem, JudgeVerdict

# Verdicts that can be lost to a kill; a judge may work on so many at a time.
BATCH = 256


class CachedJudge:
    """`judge` with a memory in the file `path`. `progress` is told how many items have been settled since last time."""

    def __init__(self, judge: Judge, path: Path, progress: Callable[[int], None] = lambda _: None) -> None:
        self._judge = judge
        self._path = path
        self._progress = progress
        self._known: dict[str, JudgeVerdict] = {}
        self.num_asked = 0
        if path.exists():
            self._load()

    @property
    def name(self) -> str:
        """The judge's."""
        return self._judge.name

    def judge(self, items: Sequence[JudgeItem]) -> list[JudgeVerdict]:
        """Verdicts in order; only items never met before reach the judge, in batches, each on disk before the next."""
        keys = [self._key(item) for item in items]
        unknown = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        self._progress(sum(key not in unknown for key in keys))
        waiting = list(unknown.items())
        for start in range(0, len(waiting), BATCH):
            batch = waiting[start : start + BATCH]
            verdicts = self._judge.judge([item for _, item in batch])
            self.num_asked += len(batch)
            self._keep({key: verdict for (key, _), verdict in zip(batch, verdicts, strict=True)})
            settled = {key for key, _ in batch}
            self._progress(sum(key in settled for key in keys))
        return [self._known[key] for key in keys]

    def cost(self) -> dict[str, float | int]:
        """The judge's own, and how many items it was asked about."""
        return {"asked": self.num_asked, **self._judge.cost()}

    def _key(self, item: JudgeItem) -> str:
        return f"{self._judge.name} {item.key}"

    def _keep(self, verdicts: dict[str, JudgeVerdict]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": key, **verdict.model_dump()}) + "\n" for key, verdict in verdicts.items()]
        with self._path.open("a", encoding="utf-8") as sink:
            sink.write("".join(lines))
            sink.flush()
            os.fsync(sink.fileno())
        self._known |= verdicts

    def _load(self) -> None:
        """Every whole line; what a kill left behind is cut off, so that the next line starts on its own."""
        size = 0
        with self._path.open("rb+") as lines:
            while (raw := lines.readline()).endswith(b"\n"):
                try:
                    row = json.loads(raw)
                    key = str(row.pop("key"))
                    self._known[key] = JudgeVerdict.model_validate(row)
                except (ValueError, KeyError, TypeError, AttributeError, ValidationError):
                    break
                size += len(raw)
            lines.truncate(size)
