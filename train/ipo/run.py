"""The job `steer train ipo`: from pairs to an adapter in two stages.

    OUT/stage-1/, OUT/stage-2/   checkpoints while a stage trains, then `weights/` and stage.json
    OUT/adapter/ (or OUT/model/) what was learned, in one move, with manifest.json
    OUT/curves.png, OUT/report.json   written last; report.json means that the job is done

A job that was killed goes on from its last whole checkpoint and gives the same losses and the same weights. Several
devices: `accelerate launch -m train.ipo.run --config TOML --out DIR`; one rank writes.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from steer.pair import Pair
from train.ipo.config import IpoConfig, LossConfig, PairJobConfig, StageConfig, load_config
from train.ipo.data import PairSet, check_tokenizers, read_pairs
from train.ipo.encoding import Encoded, Span, encode_all
from train.ipo.errors import IpoConfigError, IpoDataError, IpoError
from train.ipo.job import Job, Stage, start_processes
from train.ipo.model import load_base
from train.ipo.outputs import REPORT, claim, digest, read_json, write_json
from train.ipo.publish import publish
from train.ipo.report import plot_curves, report
from train.ipo.stage import run_stage


class Plan(NamedTuple):
    """What tells the jobs on pairs apart."""

    kind: str
    span: Span
    loss: LossConfig
    stages: tuple[StageConfig, StageConfig]


def run_file(config_path: Path, out: Path) -> dict[str, Any]:
    """`run` with a TOML file."""
    return run(load_config(config_path, IpoConfig), out)


def run(config: IpoConfig, out: Path) -> dict[str, Any]:
    """Train both stages and publish; returns what report.json holds. Raises IpoError with a message for people."""
    return run_plan(config, Plan("ipo", "divergence", config.loss, (config.stage1, config.stage2)), out)


def run_plan(config: PairJobConfig, plan: Plan, out: Path) -> dict[str, Any]:
    """Any job on pairs. Raises IpoError."""
    state = start_processes(config)
    pairs = read_pairs(config.data.pairs, config.data.benign)
    held_out = read_pairs(config.data.validation)
    base = load_base(config)
    for found in (pairs, held_out):
        check_tokenizers(found, base.tokenizer_sha256)
    key = digest(plan.kind, config.model_dump_json(), pairs.digest, held_out.digest, base.sha256)
    if state.is_main_process:
        claim(out, key, config.model_dump(mode="json"))
    state.wait_for_everyone()
    if (out / REPORT).exists():
        return read_json(out / REPORT)
    job = Job(plan.kind, config, plan.loss, base, out, state)
    planned = plan_stages(job, plan, pairs, held_out)
    summaries = [run_stage(job, stage) for stage in planned]
    if state.is_main_process:
        counts = {
            "sha256": pairs.digest,
            "files": pairs.files,
            "safety": len(pairs.safety),
            "benign": len(pairs.benign),
        }
        parents = {"model": {"name": base.name, "sha256": base.sha256}, "pairs": counts, "config": key}
        plot_curves(summaries, out / "curves.png")
        manifest = publish(job, planned[-1].weights, parents)
        write_json(out / REPORT, report(job, key, summaries, counts, manifest))
    state.wait_for_everyone()
    return read_json(out / REPORT)


def plan_stages(job: Job, plan: Plan, pairs: PairSet, held_out: PairSet) -> list[Stage]:
    """The stages to run, encoded: intervened pairs alone, then mixed with the benign ones. Raises IpoDataError."""
    first, second = plan.stages
    if first.epochs and not pairs.safety:
        raise IpoDataError("data.pairs holds no intervened pair: stage 1 has nothing to learn; set stage1.epochs = 0")
    if second.epochs and not pairs.benign:
        raise IpoDataError("there is no benign pair for stage 2: name a file in data.benign, or set stage2.epochs = 0")
    data = job.config.data

    def encoded(wanted: list[Pair]) -> Encoded:
        return encode_all(wanted, job.base.tokens, data.max_length, skip_long=data.too_long == "skip", span=plan.span)

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
    """`python -m train.ipo.run`, for `accelerate launch`; exit codes as the `steer` command's."""
    parser = argparse.ArgumentParser(prog="train.ipo.run", description="Train IPO on pairs; see docs/ipo.md.")
    parser.add_argument("--config", type=Path, required=True, help="TOML of the job; examples are in train/configs")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, adapter and report")
    options = parser.parse_args(argv)
    try:
        run_file(options.config, options.out)
    except IpoError as error:
        sys.stderr.write(f"steer: {error}\n")
        return 2 if isinstance(error, IpoConfigError) else 1
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"report: {options.out / REPORT}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
