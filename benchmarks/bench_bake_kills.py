"""Kills `steer bake` with SIGKILL in every stage and between them, again and again, and holds what comes of it to a
bake that nobody disturbed.

    python -m benchmarks.bench_bake_kills --kills 60 [--per-bake 3] [--seed 1] [--out FILE] [--keep DIR]

The command, its jobs, the log and the registry (SQLite) are the real ones; the model is a toy of random weights, on
one CPU thread. Of three kills one falls right before a change to disk or database inside a stage, one at a moment drawn
from the stage's seconds, one between two stages. A process is killed, not the machine: what the kernel was given
survives.
Exit code 1 where a bake did not go on, or gave anything else. The last line is one JSON document.
"""

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks._bake_kills import PARTS, World, between, in_order
from benchmarks._bake_lives import BEGIN, End
from benchmarks._report import finish
from train.bake.stages import STAGES

Place = tuple[str, int, float]  # part, operation, seconds


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="steer-bakes-") as folder, World.open(args.keep or Path(folder)) as world:
        places = list(draw(rng, world.whole, args.kills))
        faults: list[str] = []
        fell: Counter[str] = Counter()
        late, lives = 0, 0
        for number, start in enumerate(tqdm(range(0, len(places), args.per_bake), unit="bake")):
            chain = in_order(places[start : start + args.per_bake])
            trial = world.trial(f"{number:03d}")
            for part, operation, after_s in chain:
                end = trial.live(part, operation, after_s)
                lives += 1
                late += not end.was_killed
                fell.update([part] if end.was_killed else [])
                if end.code not in (None, 0):
                    faults.append(f"{trial.name}: resumed for {part} it ended with code {end.code}")
            lives += 1
            faults += trial.finish()
    figures = {
        "bakes": -(-len(places) // args.per_bake), "kills": sum(fell.values()), "too_late": late, "lives": lives,
        "by_place": {part: fell[part] for part in PARTS if fell[part]},
        "faults": faults, "adapter_sha256": world.adapter, "whole_bake": {
            "operations": world.whole.operations, "seconds": {k: round(v, 3) for k, v in world.whole.seconds.items()},
        },
    }  # fmt: skip
    for part, count in figures["by_place"].items():
        print(f"{part:14} {count:4d} kills")
    print(f"{figures['kills']} kills of {figures['bakes']} bakes: {len(faults)} faults")
    for fault in faults:
        print(f"  {fault}")
    finish("bake_kills", figures, seed=args.seed, out=args.out)
    return 1 if faults else 0


def draw(rng: random.Random, whole: End, count: int) -> Iterator[Place]:
    """What comes before the first stage, and the stages, in turn; of each an operation, a moment, and its end."""
    names = [BEGIN, *STAGES]
    for number in range(count):
        stage, kind = names[number % len(names)], (number // len(names)) % 3
        if kind == 1:
            yield stage, 0, rng.uniform(0, whole.seconds[stage])
        else:
            part = stage if kind == 0 or stage == BEGIN else between(stage)
            yield part, rng.randint(1, max(1, whole.operations[part])), 0.0


def _arguments(argv: Sequence[str] | None) -> Any:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--per-bake", type=int, default=3, help="one bake is killed so often, then left alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the JSON there, too")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    return parser.parse_args(argv)


if __name__ == "__main__":
    raise SystemExit(main())
