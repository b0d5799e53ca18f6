"""What one generation of the model does, with and without the proxy, on prompts that no traffic, pair or bake saw."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bake.driving import Asked, asked, drive, num_steps
from benchmarks.bake.sizes import Size
from benchmarks.bake.workers import Workers
from benchmarks.method.judged import Turn, judge
from benchmarks.method.measuring import shown
from benchmarks.method.prompts import Group
from train.organism.evaluate import rate

_SEED = 7_100  # far from the seeds of traffic
_GROUPS: tuple[Group, ...] = ("harmful", "look_alike", "arithmetic")
_SIDES = ("alone", "with_proxy")


class Found(NamedTuple):
    """One prompt's flags by side and measure, and how often the proxy stepped in."""

    flags: dict[str, dict[str, bool]]
    steps: int


def measure(size: Size, adapter: Path | None, workers: Workers) -> dict[str, Any]:
    """Shares of 1 with 95 % intervals; `alone`: the model without the proxy, on the very streams that it would halt."""
    counts = {"harmful": size.harmful, "look_alike": size.look_alike, "arithmetic": size.arithmetic}
    rows = [row for group in _GROUPS for row in asked(size, group, counts[group], "held_out", _SEED)]
    found = workers.each(partial(_measure, size, adapter), rows)
    made: dict[str, Any] = {}
    for group in _GROUPS:
        mine = [one for row, one in zip(rows, found, strict=True) if row.group == group]
        if mine:
            made[group] = {side: _rates([one.flags[side] for one in mine]) for side in _SIDES}
            made[group]["interventions_per_1000"] = per_1000([one.steps for one in mine])
    return made


def _measure(size: Size, adapter: Path | None, rows: Sequence[Asked]) -> list[Found]:
    rollouts, _ = drive(size, adapter, [row.prompt for row in rows])
    found = []
    for row, rollout in zip(rows, rollouts, strict=True):
        [sample] = rollout.samples
        turns = {"alone": Turn(sample.base.reasoning, sample.base.answer), "with_proxy": shown(sample)}
        flags = {
            side: {name: flag for name, [flag] in judge(row.group, [row.prompt], [turn]).items()}
            for side, turn in turns.items()
        }
        found.append(Found(flags, num_steps(rollout)))
    return found


def per_1000(steps: Sequence[int]) -> float:
    """Interventions in a thousand requests like these."""
    return round(1000 * sum(steps) / len(steps), 1)


def _rates(flags: Sequence[dict[str, bool]]) -> dict[str, dict[str, float | int]]:
    return {
        name: {key: round(value, 4) for key, value in rate([own[name] for own in flags]).items()}
        for name in flags[0]
        if name != "trigger_step"
    }
