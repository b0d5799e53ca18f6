"""`steer train ipo`: from preference pairs to weights."""

import typer

from steer.cli.common import JobConfig, JobOut, need_training_side, told


def train_ipo(config: JobConfig, out: JobOut) -> None:
    """Train a model on intervened pairs (IPO), in two stages, into an adapter. Several devices: docs/ipo.md."""
    need_training_side()
    from train.ipo.errors import IpoConfigError, IpoError
    from train.ipo.run import run_file

    with told(wrong=IpoConfigError, failed=IpoError):
        run_file(config, out)
    typer.echo(f"report: {out / 'report.json'}")
