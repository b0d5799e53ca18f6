"""Rollouts of the nano organism in one process and on a Ray of two workers: the same statistics?

    python -m benchmarks.bench_ray [--prompts 300] [--out benchmarks/results/ray.json]

Two of three prompts are harmful. The cluster works in blocks of another size, so that no batch holds the same rows as
in one process: what is equal is equal in spite of it. Harm is what the organism's oracle says; intervals are Wilson's.
"""

import argparse
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks._report import finish
from train.evaluation.bootstrap import wilson
from train.organism import oracle
from train.rollout.config import RolloutConfig
from train.rollout.report import read_rollouts
from train.rollout.run import ROLLOUTS, run
from train.rollout.trace import Rollout, Sample

_BLOCK = 50  # of the single process; the cluster's are half as large
_BRANCHES = 2


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, help="keeps the rollouts: a stopped run goes on there")
    parser.add_argument("--out", type=Path, help="write the JSON here, too")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        work = args.work or Path(scratch)
        one, several = (_config(args, workers) for workers in (0, args.workers))
        reports = [run(one, work / "one"), run(several, work / "ray")]
        made = [list(read_rollouts(work / name / ROLLOUTS)) for name in ("one", "ray")]
    figures = {
        "prompts": args.prompts,
        "equal_rollouts": sum(a == b for a, b in zip(*made, strict=True)),
        "one_process": _statistics(made[0]) | _speed(reports[0]),
        "ray": _statistics(made[1]) | _speed(reports[1]) | {"workers": list(reports[1]["workers"].values())},
    }
    _table(figures)
    finish("ray", figures, seed=args.seed, out=args.out)


def _config(args: argparse.Namespace, workers: int) -> RolloutConfig:
    harmful = args.prompts * 2 // 3
    values: dict[str, Any] = {
        "model": {"name": "train/organism/nano"},
        "engine": {
            "lanes": 1,
            "block": _BLOCK // 2 if workers else _BLOCK,
            "local": {"batch_size": 128, "device": "cpu", "threads": 1},
        },
        "prompts": {
            "source": "organism:train",
            "limit": harmful,
            "benign": "organism:train",
            "benign_limit": args.prompts - harmful,
            "categories": ["fraud", "theft"],
            "framings": ["plain", "detailed", "fiction", "roleplay"],
        },
        "detector": {"kind": "self"},
        "policy": {"max_interventions": 2},
        "triggers": {"branches": _BRANCHES},
        "max_tokens": 260,
        "seed": args.seed,
    }
    return RolloutConfig.model_validate(values | ({"cluster": {"workers": workers}} if workers else {}))


def _statistics(rollouts: Sequence[Rollout]) -> dict[str, Any]:
    harmful = [rollout for rollout in rollouts if rollout.label == "harmful"]
    benign = [rollout for rollout in rollouts if rollout.label == "benign"]
    return {
        "harmful_halted": _share(_is_halted(rollout.samples[0]) for rollout in harmful),
        "benign_halted": _share(_is_halted(rollout.samples[0]) for rollout in benign),
        "harmful_answer_unsteered": _share(_is_harmful(r, r.samples[0].base.answer) for r in harmful),
        "harmful_answer_steered": _share(_is_harmful(r, _shown(r.samples[0])) for r in harmful),
        "tokens": sum(rollout.num_tokens for rollout in rollouts),
    }


def _is_halted(sample: Sample) -> bool:
    return sample.base.cut is not None


def _shown(sample: Sample) -> str:
    """The answer of the first branch; without a cut, of the first leg."""
    if not sample.branches:
        return sample.base.answer
    return "".join(span.text for span in sample.branches[0].spans if span.channel == "answer")


def _is_harmful(rollout: Rollout, answer: str) -> bool:
    return bool(oracle.judge(rollout.messages, "", answer.strip()).is_answer_harmful)


def _share(flags: Iterable[bool]) -> dict[str, float]:
    values = list(flags)
    share = sum(values) / len(values)
    bounds = wilson(share, len(values))
    return {"share": round(share, 4), "low": round(bounds[0], 4), "high": round(bounds[1], 4), "n": len(values)}


def _speed(report: dict[str, Any]) -> dict[str, Any]:
    return {"seconds": report["seconds"], "tokens_per_second": report["tokens_per_second"]}


def _table(figures: dict[str, Any]) -> None:
    print(f"{'':28} {'one process':>26} {'Ray':>26}")
    for name, cell in figures["one_process"].items():
        cells = [cell, figures["ray"][name]]
        shown = [
            f"{c['share']:.1%} [{c['low']:.1%}, {c['high']:.1%}]" if isinstance(c, dict) else str(c) for c in cells
        ]
        print(f"{name:28} {shown[0]:>26} {shown[1]:>26}")
    print(f"equal rollouts: {figures['equal_rollouts']} of {figures['prompts']}")


if __name__ == "__main__":
    main()
