"""`steer train detector` and `steer train organism`: the jobs that make the shipped weights."""

import typer

from steer.cli.common import JobConfig, JobOut, need_training_side, told


def train_detector(config: JobConfig, out: JobOut) -> None:
    """Distil a cue classifier from labelled traces into an artifact folder."""
    need_training_side()
    from detector.errors import DetectorError
    from train.detector.config import load_config
    from train.detector.run import run

    with told(wrong=ValueError, failed=(DetectorError, RuntimeError)):
        run(load_config(config), out)
    typer.echo(f"report: {out / 'report.json'}")


def train_organism(config: JobConfig, out: JobOut) -> None:
    """Train the toy reasoning model that the demo shows and that benchmarks steer."""
    need_training_side()
    from train.organism.errors import OrganismConfigError, OrganismError
    from train.organism.run import run_file

    with told(wrong=OrganismConfigError, failed=OrganismError):
        run_file(config, out)
    typer.echo(f"report: {out / 'report.json'}")
