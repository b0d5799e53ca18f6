"""`steer train pairs`: rollouts and intervention records to preference pairs."""

from enum import StrEnum
from typing import Annotated

import typer

from steer.cli.common import JobConfig, JobOut, need_training_side, told


class PairsFormat(StrEnum):
    """What is written beside the snapshot."""

    jsonl = "jsonl"
    trl = "trl"
    hf = "hf"


def train_pairs(
    config: JobConfig,
    out: JobOut,
    form: Annotated[
        PairsFormat, typer.Option("--format", help="trl: rows for TRL in OUT/trl; hf: a data set folder in OUT/hf")
    ] = PairsFormat.jsonl,
) -> None:
    """Judge, filter, split and freeze preference pairs."""
    need_training_side()
    from train.judges.errors import JudgeConfigError, JudgeError
    from train.pairs.errors import PairsConfigError, PairsError
    from train.pairs.run import run_file

    with told(wrong=(PairsConfigError, JudgeConfigError), failed=(PairsError, JudgeError)):
        report = run_file(config, out, form.value)
    typer.echo(f"{report['pairs']} pairs ({report['validation']} for validation) of {report['candidates']} candidates")
    for reason, count in report["dropped"].items():
        typer.echo(f"  dropped {count:6d}  {reason}")
    typer.echo(f"report: {out / 'report.json'}")
