"""The job `steer train ipo`, and what its baselines on pairs share with it: from pairs to an adapter in two stages.

What is written and how a killed job goes on: `train.ipo.launch`. Several devices:
`accelerate launch -m train.ipo.run --config TOML --out DIR`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from steer.pair import Pair
from train.ipo.config import IpoConfig, PairJobConfig, load_config
from train.ipo.data import PairSet, check_tokenizers, read_pairs
from train.ipo.encoding import Encoded, Span, encode_all
from train.ipo.errors import IpoDataError
from train.ipo.job import Build, Job, Stage, start_processes
from train.ipo.launch import command, run_job
from train.ipo.model import load_base
from train.ipo.outputs import digest
from train.ipo.preference import build


class Plan(NamedTuple):
    """What tells the jobs on pairs apart."""

    kind: str
    span: Span
    build: Build
    arrange: Callable[[Encoded], Encoded] = lambda encoded: encoded  # a last change to the rows of a stage


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path, IpoConfig), out)


def run(config: IpoConfig, out: Path) -> dict[str, Any]:
    """Train both stages and publish; returns what report.json holds. Raises IpoError with a message for people."""
    return run_plan(config, Plan("ipo", "divergence", partial(build, loss=config.loss)), out)


def run_plan(config: PairJobConfig, plan: Plan, out: Path) -> dict[str, Any]:
    """Any job on pairs. Raises IpoError."""
    state = start_processes(config)
    pairs = read_pairs(config.data.pairs, config.data.benign)
    held_out = read_pairs(config.data.validation)
    base = load_base(config, config.data.think_markers)
    for found in (pairs, held_out):
        check_tokenizers(found, base.tokenizer_sha256)
    key = digest(plan.kind, config.model_dump_json(), pairs.digest, held_out.digest, base.sha256)
    counts = {
        "sha256": pairs.digest,
        "files": pairs.files,
        "safety": len(pairs.safety),
        "benign": len(pairs.benign),
    }
    job = Job(plan.kind, config, plan.build, base, out, state)
    return run_job(job, key, {"pairs": counts}, lambda: plan_stages(job, config, plan, pairs, held_out))


def plan_stages(job: Job, config: PairJobConfig, plan: Plan, pairs: PairSet, held_out: PairSet) -> list[Stage]:
    """The stages to run, encoded: intervened pairs alone, then mixed with the benign ones. Raises IpoDataError."""
    first, second = config.stage1, config.stage2
    if first.epochs and not pairs.safety:
        raise IpoDataError("data.pairs holds no intervened pair: stage 1 has nothing to learn; set stage1.epochs = 0")
    if second.epochs and not pairs.benign:
        raise IpoDataError("there is no benign pair for stage 2: name a file in data.benign, or set stage2.epochs = 0")
    data = config.data

    def encoded(wanted: list[Pair]) -> Encoded:
        is_skipping = data.too_long == "skip"
        rows = encode_all(wanted, job.base.tokens, data.max_length, skip_long=is_skipping, span=plan.span)
        return plan.arrange(rows)

    scored = [*held_out.safety, *held_out.benign]
    validation = encoded(scored) if scored else None
    stages: list[Stage] = []
    for number, (settings, wanted) in enumerate(((first, pairs.safety), (second, [*pairs.safety, *pairs.benign])), 1):
        if settings.epochs:
            start = stages[-1].weights if stages else None
            folder = job.out / f"stage-{number}"
            stages.append(Stage(f"stage-{number}", encoded(wanted), validation, settings, folder, start))
    return stages


def main(argv: list[str] | None = None) -> int:
    """The job as a module, for `accelerate launch`."""
    return command("train.ipo.run", run_file, argv)


if __name__ == "__main__":
    raise SystemExit(main())
