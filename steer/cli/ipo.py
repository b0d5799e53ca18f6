"""`steer train ipo`: from preference pairs to weights."""

import typer

from steer.cli.common import JobConfig, JobOut, fail, need_training_side


def train_ipo(config: JobConfig, out: JobOut) -> None:
    """Train a model on intervened pairs (IPO), in two stages, into an adapter. Several devices: docs/ipo.md."""
    need_training_side()
    from train.ipo.errors import IpoConfigError, IpoError
    from train.ipo.run import run_file

    try:
        run_file(config, out)
    except IpoConfigError as error:
        fail(error, 2)
    except (IpoError, OSError) as error:
        fail(error)
    typer.echo(f"report: {out / 'report.json'}")
