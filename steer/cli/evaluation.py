"""`steer eval`: what a model does, in figures; and two reports side by side."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.common import fail, need_training_side, told

_Config = Annotated[Path | None, typer.Option("--config", help="TOML of the job; examples are in train/configs")]
_Out = Annotated[
    Path | None, typer.Option("--out", help="folder for samples, report.json and plots; resumes what is there")
]
_Diff = Annotated[
    tuple[Path, Path] | None,
    typer.Option("--diff", metavar="A B", help="two report.json, or their folders: B against A; --out writes files"),
]


def evaluate(config: _Config = None, out: _Out = None, diff: _Diff = None) -> None:
    """Harmful reasoning and answers, over-refusal, capability, monitorability: with intervals, or compared (--diff)."""
    need_training_side()
    if diff is not None:
        if config is not None:
            fail("give either --config or --diff", 2)
        _compare(*diff, out)
    elif config is None or out is None:
        fail("give --config TOML and --out DIR, or --diff A B", 2)
    else:
        _evaluate(config, out)


def _evaluate(config: Path, out: Path) -> None:
    from detector.errors import DetectorError
    from train.evaluation.errors import EvaluationConfigError, EvaluationError
    from train.evaluation.markdown import markdown
    from train.evaluation.run import run_file
    from train.judges.errors import JudgeConfigError, JudgeError
    from train.rollout.errors import RolloutConfigError, RolloutError, TemplateError

    with told(
        wrong=(EvaluationConfigError, RolloutConfigError, TemplateError, JudgeConfigError),
        failed=(EvaluationError, RolloutError, JudgeError, DetectorError),
    ):
        report = run_file(config, out)
    typer.echo(markdown(report))
    typer.echo(f"report: {out / 'report.json'}")


def _compare(a: Path, b: Path, out: Path | None) -> None:
    from train.evaluation.diff import diff_files, diff_markdown
    from train.evaluation.errors import EvaluationConfigError

    try:
        made = diff_files(a, b, out)
    except EvaluationConfigError as error:
        fail(error, 2)
    except OSError as error:
        fail(error)
    typer.echo(diff_markdown(made))
