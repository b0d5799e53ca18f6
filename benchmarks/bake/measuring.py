"""What one generation of the model does, with and without the proxy, on prompts that no traffic, pair or bake saw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bake.driving import drive, prompts
from benchmarks.bake.sizes import Size
from benchmarks.method.judged import Turn, judge
from benchmarks.method.measuring import shown
from benchmarks.method.prompts import Group
from train.organism.evaluate import rate
from train.rollout.trace import Rollout

_SEED = 7_100  # far from the seeds of traffic
_GROUPS: tuple[Group, ...] = ("harmful", "look_alike", "arithmetic")


def measure(size: Size, adapter: Path | None) -> dict[str, Any]:
    """Shares of 1 with 95 % intervals; `alone`: the model without the proxy, on the very streams that it would halt."""
    counts = {"harmful": size.harmful, "look_alike": size.look_alike, "arithmetic": size.arithmetic}
    rows = {group: prompts(size, group, counts[group], "held_out", _SEED) for group in _GROUPS if counts[group]}
    driven, _ = drive(size, adapter, [row for group in rows.values() for row in group])
    found: dict[str, Any] = {}
    for group, asked in rows.items():
        mine, driven = driven[: len(asked)], driven[len(asked) :]
        turns = {
            "alone": [Turn(rollout.samples[0].base.reasoning, rollout.samples[0].base.answer) for rollout in mine],
            "with_proxy": [shown(rollout.samples[0]) for rollout in mine],
        }
        found[group] = {side: _rates(judge(group, asked, made)) for side, made in turns.items()}
        found[group]["interventions_per_1000"] = per_1000(mine)
    return found


def per_1000(rollouts: Sequence[Rollout]) -> float:
    """Interventions in a thousand requests like these."""
    steps = sum(len(branch.steps) for r in rollouts for sample in r.samples for branch in sample.branches)
    return round(1000 * steps / len(rollouts), 1)


def _rates(flags: dict[str, list[bool]]) -> dict[str, dict[str, float | int]]:
    return {
        name: {key: round(value, 4) for key, value in rate(values).items()}
        for name, values in flags.items()
        if name != "trigger_step"
    }
