"""`steer train rollout`: prompts to steered and unsteered traces."""

import typer

from steer.cli.common import JobConfig, JobOut, fail, need_training_side


def train_rollout(config: JobConfig, out: JobOut) -> None:
    """Generate with corrective interventions: cut at each first cue, splice triggers, keep the counterfactual."""
    need_training_side()
    from detector.errors import DetectorError
    from train.rollout.errors import RolloutConfigError, RolloutError, TemplateError
    from train.rollout.run import run_file

    try:
        report = run_file(config, out)
    except (RolloutConfigError, TemplateError) as error:
        fail(error, 2)
    except (RolloutError, DetectorError, OSError) as error:
        fail(error)
    typer.echo(f"{report['prompts']} prompts, {report['generations']} generations, {report['tokens']} tokens")
    typer.echo(f"report: {out / 'report.json'}")
