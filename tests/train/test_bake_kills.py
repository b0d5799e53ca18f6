"""`steer bake` as a process that is killed with SIGKILL in every stage and after it, and goes on to the same adapter.

`python -m benchmarks.bench_bake_kills` does the same at random operations and moments, many times.
"""

import random
from pathlib import Path

import pytest

from benchmarks._bake_kills import World, between
from train.bake.stages import STAGES


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_bake_killed_in_and_after_every_stage_goes_on_and_gives_the_same(tmp_path: Path) -> None:
    """One bake, killed eighteen times: right before a drawn change to disk or database, and after each manifest."""
    rng = random.Random(11)
    with World.open(tmp_path) as world:
        trial = world.trial("killed")
        for stage in STAGES:
            for part, operation in ((stage, rng.randint(1, world.whole.operations[stage])), (between(stage), 1)):
                assert trial.live(part, operation).was_killed, f"{part}, operation {operation}"
        assert trial.finish() == []
