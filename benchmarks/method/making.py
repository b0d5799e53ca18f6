"""Cells that make pairs: rollouts with a detector, and the snapshot of pairs that the oracle admits."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.method.cells import Cell, cell_id
from benchmarks.method.evidence import MINED
from benchmarks.method.measuring import detection, detector_config
from benchmarks.method.places import Places
from benchmarks.method.prompts import rolled_out, shard, validation_topics
from benchmarks.method.sizes import CONFIGS, MAX_TOKENS, ORGANISM, Sizes
from steer.pair import Pair
from train.ipo.outputs import read_json
from train.pairs.config import PairsConfig
from train.pairs.config import load_config as load_pairs_config
from train.pairs.run import run as make_pairs
from train.rollout.config import RolloutConfig
from train.rollout.config import load_config as load_rollout_config
from train.rollout.report import read_rollouts
from train.rollout.run import ROLLOUTS
from train.rollout.run import run as roll_out


def rollout(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """A shard of `train/configs/rollout-organism.toml` with the cell's detector, triggers and weights."""
    drawn = sizes.curve() if cell.options.get("curve") else sizes
    rows = shard(rolled_out(drawn, cell.seed), cell.options["shard"], drawn.shards)
    folder = places.work(cell.id)
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "prompts.jsonl"
    source.write_text("".join(row.model_dump_json() + "\n" for row in rows), encoding="utf-8")
    report = roll_out(_rollout_config(cell, sizes, places, source, len(rows)), folder / "job")
    counts = ("prompts", "generations", "branches", "tokens", "unfinished", "seconds", "branch_outcomes")
    found = detection(list(read_rollouts(folder / "job" / ROLLOUTS)))
    return {name: report[name] for name in counts} | {"detected": found}


def _rollout_config(cell: Cell, sizes: Sizes, places: Places, source: Path, num_rows: int) -> RolloutConfig:
    own = load_rollout_config(CONFIGS / "rollout-organism.toml").model_dump(exclude_unset=True)
    own["model"] = places.weights(cell.options.get("weights"), cell.seed).as_config()
    own["engine"] = sizes.engine(block=max(1, -(-num_rows // 2)))
    own["prompts"] = {"source": str(source)}
    own["detector"] = detector_config(cell.options.get("detector", "shipped"), sizes.judging_threads).model_dump()
    own["triggers"]["ids"] = cell.options.get("ids", ())
    if "pool" in cell.options:
        job = places.work(cell_id(cell.options["pool"], cell.seed)) / "job"
        own["triggers"]["pool"] = read_json(job / MINED)["pool"]
        if not own["triggers"]["pool"]:
            raise ValueError(f"no mined trigger was admitted: {job / MINED} says how each did")
    own["triggers"]["branches"] = cell.options.get("branches", own["triggers"]["branches"])
    own["triggers"]["benign_branches"] = cell.options.get("benign_branches", own["triggers"]["benign_branches"])
    own |= {"max_tokens": MAX_TOKENS, "seed": cell.seed, "samples": cell.options.get("samples", 1)}
    return RolloutConfig.model_validate(own)


def pairs(cell: Cell, sizes: Sizes, places: Places) -> dict[str, Any]:
    """All shards of a rollout as one snapshot; nothing is held out, because the measured prompts are."""
    own = load_pairs_config(CONFIGS / "pairs-organism.toml").model_dump(exclude_unset=True)
    own["rollouts"] = [str(places.work(id) / "job" / ROLLOUTS) for id in cell.needs]
    own |= {"tokenizer": str(ORGANISM), "validation_share": 0.0, "seed": cell.seed}
    report = make_pairs(PairsConfig.model_validate(own), places.work(cell.id))
    names = ("candidates", "pairs", "kinds", "dropped", "families", "prompts", "attempts", "tokens")
    return {name: report[name] for name in names} | {"missed": report["missed_by_detector"]}


def chosen_pairs(cell: Cell, sizes: Sizes, places: Places) -> Path:
    """The cell's own file of pairs: a random part of its snapshots, as many of each kind as it trains on.

    While a learning rate is chosen, the topics that it is chosen by are left out.
    """
    left_out = validation_topics() if "rate" in cell.options else frozenset[str]()
    limit = cell.options.get("pairs", sizes.pairs)
    benign_limit = round(sizes.benign_pairs * limit / sizes.pairs)  # the mixture stays the same on every curve
    found = {"safety": list[Pair](), "benign": list[Pair]()}
    for source in (cell.options["source"], cell.options.get("also")):
        if source is not None:
            for pair in _read(places.work(cell_id(f"pairs-{source}", cell.seed)) / "pairs.jsonl"):
                if pair.family not in left_out:
                    found[pair.kind].append(pair)
    taken = _some(found["safety"], limit, cell.seed) + _some(found["benign"], benign_limit, cell.seed)
    path = places.work(cell.id) / "pairs.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(pair.model_dump_json() + "\n" for pair in taken), encoding="utf-8")
    return path


def _some(pairs: Sequence[Pair], count: int, seed: int) -> list[Pair]:
    """A smaller count gives a part of what a larger one does."""
    order = sorted(pairs, key=lambda pair: pair.id)
    random.Random(seed).shuffle(order)
    return order[:count]


def _read(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8") as lines:
        return [Pair.model_validate(json.loads(line)) for line in lines]
