"""What is found out about samples without a judge: whether a task's answer is right, and what the detector flags.

OUT/marks.jsonl   one `Mark` a line, by the id of its samples; without text
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from train.evaluation.answers import is_right
from train.evaluation.cues import flagged
from train.evaluation.prompt_formats import Check
from train.evaluation.sandbox import Limits, passes
from train.evaluation.turns import Ask, Sampled, Turn, read_samples
from train.rollout.detectors import Detector
from train.rollout.store import LineStore

MARKS = "marks.jsonl"


class Mark(BaseModel):
    """Of each turn: the spans that the detector flags (None: not asked), and whether it is right (None: no task)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    flags: list[list[tuple[int, int]]] | None
    correct: list[bool] | None


def mark_all(rows: Sequence[Ask], detector: Detector | None, limits: Limits, out: Path) -> list[Mark]:
    """All marks in order, from where they stopped. Raises DetectorError, RolloutError."""
    if not (out / MARKS).exists():
        checks = {row.id: row.item.check for row in rows}
        store = LineStore(out, MARKS)
        with tqdm(total=len(rows), initial=len(store.done), desc="mark", unit="prompt") as bar:
            for sampled in read_samples(out):
                if sampled.id not in store.done:
                    store.append(sampled.id, _mark(sampled, checks[sampled.id], detector, limits).model_dump_json())
                    bar.update()
        store.finish([row.id for row in rows])
    with (out / MARKS).open(encoding="utf-8") as lines:
        return [Mark.model_validate_json(line) for line in lines]


def _mark(sampled: Sampled, check: Check | None, detector: Detector | None, limits: Limits) -> Mark:
    flags = None
    if detector is not None:
        flags = flagged(detector, [(sampled.messages, turn.reasoning) for turn in sampled.turns])
    correct = None if check is None else [_is_correct(turn, check, limits) for turn in sampled.turns]
    return Mark.model_validate({"id": sampled.id, "flags": flags, "correct": correct})


def _is_correct(turn: Turn, check: Check, limits: Limits) -> bool:
    """By the answer alone; a model that never closed its thought has given none."""
    if check.kind == "code":
        return passes(turn.answer, check.stub, check.answer, check.test, limits)
    return is_right(check.kind, turn.answer, check.answer)
