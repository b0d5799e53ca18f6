"""What every job that trains weights does around its own part: claim the folder, run the stages, publish, report.

    OUT/stage-1/ …               checkpoints while a stage trains, then `weights/` and stage.json
    OUT/adapter/ (or OUT/model/) what was learned, in one move, with manifest.json
    OUT/curves.png, OUT/report.json   written last; report.json means that the job is done

A job that was killed goes on from its last whole checkpoint and gives the same losses and the same weights. One rank
writes.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from train.ipo.errors import IpoConfigError, IpoError
from train.ipo.job import Job, Stage
from train.ipo.outputs import REPORT, claim, read_json, write_json
from train.ipo.publish import publish
from train.ipo.report import plot_curves, report
from train.ipo.stage import run_stage

RunFile = Callable[[Path, Path], dict[str, Any]]


def run_job(
    job: Job,
    key: str,
    inputs: dict[str, Any],
    plan: Callable[[], Sequence[Stage]],
    cost: Callable[[], dict[str, Any]] = dict,
) -> dict[str, Any]:
    """The whole job; returns what report.json holds. Raises IpoError.

    `key` identifies it, `inputs` is what it trains on, for report and manifest; `plan` gives the stages and is not
    asked where the job is done; `cost` is asked at the end, for the report alone.
    """
    state, out = job.state, job.out
    if state.is_main_process:
        claim(out, key, job.config.model_dump(mode="json"))
    state.wait_for_everyone()
    if (out / REPORT).exists():
        return read_json(out / REPORT)
    stages = plan()
    summaries = [run_stage(job, stage) for stage in stages]
    if state.is_main_process:
        parents = {"model": {"name": job.base.name, "sha256": job.base.sha256}, **inputs, "config": key}
        plot_curves(summaries, out / "curves.png")
        manifest = publish(job, stages[-1].weights, parents)
        write_json(out / REPORT, report(job, key, summaries, inputs | cost(), manifest))
    state.wait_for_everyone()
    return read_json(out / REPORT)


def command(
    module: str,
    run_file: RunFile,
    argv: list[str] | None = None,
    *,
    wrong_use: tuple[type[Exception], ...] = (IpoConfigError,),
    failures: tuple[type[Exception], ...] = (IpoError,),
) -> int:
    """`python -m MODULE`, for `accelerate launch`; exit codes as the `steer` command's.

    `wrong_use` and `failures`: the job's errors for people.
    """
    parser = argparse.ArgumentParser(prog=module, description="Train weights from a TOML config; see docs/ipo.md.")
    parser.add_argument("--config", type=Path, required=True, help="TOML of the job; examples are in train/configs")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, adapter and report")
    options = parser.parse_args(argv)
    try:
        run_file(options.config, options.out)
    except wrong_use + failures as error:
        sys.stderr.write(f"steer: {error}\n")
        return 2 if isinstance(error, wrong_use) else 1
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(f"report: {options.out / REPORT}\n")
    return 0
