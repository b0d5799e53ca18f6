"""`steer csr`: how safe continuations are along a model's reasoning, and which sentences turn them."""

import typer

from steer.cli.common import JobConfig, JobOut, fail, need_training_side


def csr(config: JobConfig, out: JobOut) -> None:
    """Measure the Continuation Safety Ratio after each sentence, find turning points, mine and compare triggers."""
    need_training_side()
    from detector.errors import DetectorError
    from train.csr.errors import CsrConfigError, CsrError
    from train.csr.run import run_file
    from train.judges.errors import JudgeConfigError, JudgeError
    from train.rollout.errors import RolloutConfigError, RolloutError, TemplateError

    try:
        report = run_file(config, out)
    except (CsrConfigError, JudgeConfigError, RolloutConfigError, TemplateError) as error:
        fail(error, 2)
    except (CsrError, JudgeError, RolloutError, DetectorError, OSError) as error:
        fail(error)
    cost = report["cost"]["all"]
    typer.echo(f"{cost['generations']} generations, {cost['tokens']} tokens")
    typer.echo(f"report: {out / 'report.json'}")
