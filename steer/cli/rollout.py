"""`steer train rollout`: prompts to steered and unsteered traces."""

import typer

from steer.cli.common import JobConfig, JobOut, need_training_side, told


def train_rollout(config: JobConfig, out: JobOut) -> None:
    """Generate with corrective interventions: cut at each first cue, splice triggers, keep the counterfactual."""
    need_training_side()
    from detector.errors import DetectorError
    from train.rollout.errors import RolloutConfigError, RolloutError, TemplateError
    from train.rollout.run import run_file

    with told(wrong=(RolloutConfigError, TemplateError), failed=(RolloutError, DetectorError)):
        report = run_file(config, out)
    typer.echo(f"{report['prompts']} prompts, {report['generations']} generations, {report['tokens']} tokens")
    typer.echo(f"report: {out / 'report.json'}")
