"""`steer train sft`, `dpo` and `grpo`: what IPO is compared with."""

import typer

from steer.cli.common import JobConfig, JobOut, need_training_side, told


def train_sft(config: JobConfig, out: JobOut) -> None:
    """Train a model on intervened traces, supervised (baseline), in two stages, into an adapter."""
    need_training_side()
    from train.baselines.sft import run_file
    from train.ipo.errors import IpoConfigError, IpoError

    with told(wrong=IpoConfigError, failed=IpoError):
        run_file(config, out)
    typer.echo(f"report: {out / 'report.json'}")


def train_dpo(config: JobConfig, out: JobOut) -> None:
    """Train a model by DPO on full responses (baseline), in two stages, into an adapter."""
    need_training_side()
    from train.baselines.dpo import run_file
    from train.ipo.errors import IpoConfigError, IpoError

    with told(wrong=IpoConfigError, failed=IpoError):
        run_file(config, out)
    typer.echo(f"report: {out / 'report.json'}")


def train_grpo(config: JobConfig, out: JobOut) -> None:
    """Train a model by GRPO with a judge as the reward (baseline), into an adapter."""
    need_training_side()
    from train.grpo.run import FAILURES, WRONG_USE, run_file

    with told(wrong=WRONG_USE, failed=FAILURES):
        run_file(config, out)
    typer.echo(f"report: {out / 'report.json'}")
