"""`steer train label`: conversations to labelled traces, by a teacher."""

from importlib.util import find_spec
from typing import Annotated

import typer

from steer.cli.common import JobConfig, JobOut, fail


def train_label(
    config: JobConfig,
    out: JobOut,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="ask again for conversations that failed before")
    ] = False,
) -> None:
    """Label reasoning sentence by sentence with any OpenAI-compatible model, for `steer train detector`."""
    if missing := [name for name in ("openai", "matplotlib", "tqdm") if find_spec(name) is None]:
        fail(f"labelling needs {' and '.join(missing)}: run scripts/setup, or install the extra `train`")
    from train.label.errors import LabelConfigError, LabelError
    from train.label.run import run_file

    try:
        report = run_file(config, out, retry_failed=retry_failed)
    except LabelConfigError as error:
        fail(error, 2)
    except (LabelError, OSError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("interrupted; the answers so far are kept, run the same command again to go on")
    done, cost = report["conversations"], report["cost"]
    typer.echo(f"{done['labelled']} labelled, {done['failed']} failed, {cost['total']:.2f} {cost['currency']}")
    if done["failed"]:
        typer.echo(f"why: {out / 'failed.jsonl'}")
    typer.echo(f"report: {out / 'report.json'}")
