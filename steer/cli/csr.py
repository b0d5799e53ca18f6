"""`steer csr`: how safe continuations are along a model's reasoning, and which sentences turn them."""

import typer

from steer.cli.common import JobConfig, JobOut, need_training_side, told


def csr(config: JobConfig, out: JobOut) -> None:
    """Measure the Continuation Safety Ratio after each sentence, find turning points, mine and compare triggers."""
    need_training_side()
    from detector.errors import DetectorError
    from train.csr.errors import CsrConfigError, CsrError
    from train.csr.run import run_file
    from train.judges.errors import JudgeConfigError, JudgeError
    from train.rollout.errors import RolloutConfigError, RolloutError, TemplateError

    with told(
        wrong=(CsrConfigError, JudgeConfigError, RolloutConfigError, TemplateError),
        failed=(CsrError, JudgeError, RolloutError, DetectorError),
    ):
        report = run_file(config, out)
    cost = report["cost"]["all"]
    typer.echo(f"{cost['generations']} generations, {cost['tokens']} tokens")
    typer.echo(f"report: {out / 'report.json'}")
