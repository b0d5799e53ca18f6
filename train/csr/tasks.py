"""Which triggers are tried where: candidates on the mined side, pools against each other on the other.

Tasks are keyed by their ids, which make their seeds: the same job makes the same trials, whatever it is killed in.
"""

from collections.abc import Sequence

from steer.triggers import Trigger
from train.csr.config import TrialsConfig
from train.csr.mining import Candidate, Site, benign_sites, sides_of, sites
from train.csr.schema import Arm, Curve, Stage
from train.csr.trials import Task


def candidate_tasks(
    found: Sequence[Candidate], curves: Sequence[Curve], trials: TrialsConfig, seed: int
) -> dict[str, Task]:
    """Every candidate at first cues and benign sentences of the mined side, but of prompts that it was said for."""
    sides = sides_of(curves, seed)
    places = sites(curves, sides, "mined", trials.cue, trials.sites, seed)
    places += benign_sites(curves, sides, "mined", trials.benign_sites, seed)
    tasks = [
        _task("candidates", "mined", one.trigger, site, 0)
        for one in found
        for site in places
        if site.curve.prompt_id not in one.prompts
    ]
    return {task.id: task for task in tasks}


def comparison_tasks(
    mined: Sequence[Trigger], curves: Sequence[Curve], trials: TrialsConfig, seed: int
) -> dict[str, Task]:
    """At every site each pool's triggers in turn, so that all of a pool come up equally often."""
    sides = sides_of(curves, seed)
    places = sites(curves, sides, "compared", trials.cue, trials.compare_sites, seed)
    places += benign_sites(curves, sides, "compared", trials.benign_sites, seed)
    pools: list[tuple[Arm, Sequence[Trigger | None]]] = [("none", [None]), ("fixed", trials.pool), ("mined", mined)]
    if trials.generated:
        pools.append(("generated", [None]))
    tasks = [
        _task("comparison", arm, pool[(place * trials.tries + number) % len(pool)], site, number)
        for place, site in enumerate(places)
        for arm, pool in pools
        for number in range(trials.tries if pool else 0)
    ]
    return {task.id: task for task in tasks}


def _task(stage: Stage, arm: Arm, trigger: Trigger | None, site: Site, number: int) -> Task:
    name = trigger.id if stage == "candidates" and trigger is not None else arm
    return Task(f"{name}/{site.curve.prompt_id}/{number}", stage, arm, trigger, site)
