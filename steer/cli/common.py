"""What every command shares: options, one-line errors, and the check for what only training needs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

Errors = type[Exception] | tuple[type[Exception], ...]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file; see docs/configuration.md")]
JobConfig = Annotated[Path, typer.Option("--config", help="TOML of the job; examples are in train/configs")]
JobOut = Annotated[
    Path, typer.Option("--out", help="folder for checkpoints, report.json and plots; resumes what is there")
]


def fail(reason: str | Exception, code: int = 1) -> NoReturn:
    """One line on standard error, then the exit code."""
    message = str(reason)
    if isinstance(reason, OSError) and reason.strerror:
        message = f"{reason.filename}: {reason.strerror}" if reason.filename else reason.strerror
    print(f"steer: {message}", file=sys.stderr)  # noqa: T201 - the command's own voice
    raise typer.Exit(code)


@contextmanager
def told(*, wrong: Errors, failed: Errors) -> Iterator[None]:
    """Ends the command with code 2 where its use is wrong, with 1 where something failed, the disk included."""
    try:
        yield
    except wrong as error:
        fail(error, 2)
    except failed as error:
        fail(error)
    except OSError as error:
        fail(error)


def need_training_side() -> None:
    """Ends the command where torch or transformers is missing, saying how to install them."""
    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        fail(f"training needs {' and '.join(missing)}: run scripts/setup, or install the extra `train`")


def given(**values: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in values.items() if value is not None}
