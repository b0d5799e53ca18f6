"""One stage of the job: items to lines of a file, in lanes, resumable.

OUT/NAME.part    grows while the stage runs; a job started again goes on after it
OUT/NAME         all lines in the order of the items: the stage is done
OUT/seconds.json wall seconds of each stage, over all starts
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel
from tqdm import tqdm

from train.csr.schema import Cost
from train.rollout.config import EngineConfig
from train.rollout.store import LineStore, write_json

_SECONDS = "seconds.json"


class Line(Protocol):
    """What is written: a model with an id and what it cost."""

    @property
    def id(self) -> str:
        """Unique within the stage."""

    @property
    def cost(self) -> Cost:
        """Of making it."""

    def model_dump_json(self) -> str:
        """The line."""


Item = TypeVar("Item")
Made = TypeVar("Made", bound=Line)
Row = TypeVar("Row", bound=BaseModel)


def work_through(
    out: Path, name: str, items: dict[str, Item], work: Callable[[Sequence[Item]], list[Made]], engine: EngineConfig
) -> None:
    """Everything of the stage that is not on disk yet, then its finished file. `items`: by the ids of their lines."""
    if (out / name).exists():
        return
    store = LineStore(out, name)
    left = [item for id, item in items.items() if id not in store.done]
    before, began, tokens = seconds(out).get(name, 0.0), time.monotonic(), 0
    with tqdm(total=len(items), initial=len(items) - len(left), desc=name.removesuffix(".jsonl")) as bar:

        def keep(made: Sequence[Made]) -> None:
            nonlocal tokens
            for line in made:
                store.append(line.id, line.model_dump_json())
                tokens += line.cost.tokens
                bar.update()
            spent = time.monotonic() - began
            write_json(out / _SECONDS, seconds(out) | {name: round(before + spent, 2)})
            bar.set_postfix_str(f"{tokens / max(spent, 1e-9):.0f} tokens/s")

        _in_lanes(left, work, keep, engine)
    store.finish(list(items))


def seconds(out: Path) -> dict[str, float]:
    """Wall seconds of each stage so far."""
    try:
        found: dict[str, float] = json.loads((out / _SECONDS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """A finished file; empty where the stage was not asked for."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [kind.model_validate_json(line) for line in lines]


def _in_lanes(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], list[Made]],
    keep: Callable[[Sequence[Made]], None],
    engine: EngineConfig,
) -> None:
    """Lanes work, this thread writes. After a failure what is finished is kept, what is not begun is not begun."""
    size = engine.block
    with ThreadPoolExecutor(engine.lanes, thread_name_prefix="csr") as lanes:
        running: set[Any] = {lanes.submit(work, items[start : start + size]) for start in range(0, len(items), size)}
        try:
            for future in as_completed(list(running)):
                running.discard(future)
                keep(future.result())
        finally:
            lanes.shutdown(cancel_futures=True)
            for future in running:
                if future.done() and not future.cancelled() and future.exception() is None:
                    keep(future.result())
