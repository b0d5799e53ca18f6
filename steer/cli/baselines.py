"""`steer train sft`, `dpo` and `grpo`: what IPO is compared with."""

import typer

from steer.cli.common import JobConfig, JobOut, fail, need_training_side


def train_sft(config: JobConfig, out: JobOut) -> None:
    """Train a model on intervened traces, supervised (baseline), in two stages, into an adapter."""
    need_training_side()
    from train.baselines.sft import run_file
    from train.ipo.errors import IpoConfigError, IpoError

    try:
        run_file(config, out)
    except IpoConfigError as error:
        fail(error, 2)
    except (IpoError, OSError) as error:
        fail(error)
    typer.echo(f"report: {out / 'report.json'}")


def train_dpo(config: JobConfig, out: JobOut) -> None:
    """Train a model by DPO on full responses (baseline), in two stages, into an adapter."""
    need_training_side()
    from train.baselines.dpo import run_file
    from train.ipo.errors import IpoConfigError, IpoError

    try:
        run_file(config, out)
    except IpoConfigError as error:
        fail(error, 2)
    except (IpoError, OSError) as error:
        fail(error)
    typer.echo(f"report: {out / 'report.json'}")


def train_grpo(config: JobConfig, out: JobOut) -> None:
    """Train a model by GRPO with a judge as the reward (baseline), into an adapter."""
    need_training_side()
    from train.grpo.run import FAILURES, WRONG_USE, run_file

    try:
        run_file(config, out)
    except WRONG_USE as error:
        fail(error, 2)
    except (*FAILURES, OSError) as error:
        fail(error)
    typer.echo(f"report: {out / 'report.json'}")
