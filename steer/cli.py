"""The `steer` command: the composition root. Imports the other packages inside its commands, so that each starts fast
and the serving side never loads what only training needs.

Exit codes: 0 done, 1 failed, 2 wrong use.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="steer",
    help="Halts a reasoning model at the first compliance cue in its reasoning and steers it back, live.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train = typer.Typer(
    help="Training jobs; every job takes --config TOML and --out DIR and can be resumed.",
    no_args_is_help=True,
)
app.add_typer(train, name="train")

Config = Annotated[Path | None, typer.Option("--config", help="TOML file; see docs/configuration.md")]


def fail(reason: str | Exception, code: int = 1) -> NoReturn:
    """One line on standard error, then the exit code."""
    message = str(reason)
    if isinstance(reason, OSError) and reason.strerror:
        message = f"{reason.filename}: {reason.strerror}" if reason.filename else reason.strerror
    print(f"steer: {message}", file=sys.stderr)  # noqa: T201 - the command's own voice
    raise typer.Exit(code)


@app.command()
def serve(
    config: Config = None,
    upstream: Annotated[str | None, typer.Option(help="base URL of the engine, e.g. http://127.0.0.1:8000")] = None,
    host: Annotated[str | None, typer.Option(help="address to listen on")] = None,
    port: Annotated[int | None, typer.Option(help="port to listen on")] = None,
    mode: Annotated[str | None, typer.Option(help="hold, tap or monitor")] = None,
    workers: Annotated[int | None, typer.Option(help="processes")] = None,
    log_url: Annotated[str | None, typer.Option("--log", help="URL of the intervention log")] = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="print the resolved settings and stop")] = False,
) -> None:
    """Serve the proxy in front of an engine."""
    from proxy.errors import ConfigError
    from proxy.server import run
    from proxy.settings import load_settings

    overrides: dict[str, dict[str, Any]] = {
        "upstream": _given(url=upstream),
        "server": _given(host=host, port=port, workers=workers),
        "policy": _given(mode=mode),
        "log": _given(url=log_url),
    }
    try:
        settings = load_settings(config, overrides)
        if print_config:
            typer.echo(settings.shown())
            return
        run(settings)
    except ConfigError as error:
        fail(error, 2)


@app.command()
def demo(
    port: Annotated[int, typer.Option(help="port of the playground and the proxy; 0 picks a free one")] = 8080,
    host: Annotated[str, typer.Option(help="address to listen on, of this machine alone")] = "127.0.0.1",
    terminal: Annotated[bool, typer.Option("--terminal", help="play in this terminal instead, then stop")] = False,
    open_browser: Annotated[
        bool | None, typer.Option("--open/--no-open", help="open a browser; default: where there is a display")
    ] = None,
    example: Annotated[int | None, typer.Option(min=1, help="number of the example to open with or to play")] = None,
) -> None:
    """Watch a toy model being halted and corrected live: embedded model, proxy and playground on one port."""
    from proxy.demo.command import run_demo
    from proxy.demo.errors import DemoError
    from proxy.errors import ConfigError

    try:
        run_demo(host=host, port=port, in_terminal=terminal, opens_browser=open_browser, example=example)
    except ConfigError as error:
        fail(error, 2)
    except (DemoError, OSError) as error:
        fail(error)


@app.command()
def detect(
    source: Annotated[Path, typer.Option("--in", help="JSONL of traces")],
    target: Annotated[Path, typer.Option("--out", help="JSONL of scores, written whole or not at all")],
    artifact: Annotated[Path | None, typer.Option(help="artifact folder; default: the one that ships")] = None,
) -> None:
    """Score every segment of recorded traces and find each trace's first compliance cue."""
    from detector.detect import detect_file
    from detector.errors import ArtifactError, DetectorError

    try:
        detect_file(source, target, artifact)
    except (ArtifactError, DetectorError, OSError) as error:
        fail(error)


JobConfig = Annotated[Path, typer.Option("--config", help="TOML of the job; examples are in train/configs")]
JobOut = Annotated[
    Path, typer.Option("--out", help="folder for checkpoints, report.json and plots; resumes what is there")
]


@train.command("detector")
def train_detector(config: JobConfig, out: JobOut) -> None:
    """Distil a cue classifier from labelled traces into an artifact folder."""
    _need_training_side()
    from detector.errors import DetectorError
    from train.detector.config import load_config
    from train.detector.run import run

    try:
        run(load_config(config), out)
    except ValueError as error:
        fail(error, 2)
    except (DetectorError, RuntimeError, OSError) as error:
        fail(error)
    typer.echo(f"report: {out / 'report.json'}")


@train.command("organism")
def train_organism(config: JobConfig, out: JobOut) -> None:
    """Train the toy reasoning model that the demo shows and that benchmarks steer."""
    _need_training_side()
    from train.organism.errors import OrganismConfigError, OrganismError
    from train.organism.run import run_file

    try:
        run_file(config, out)
    except OrganismConfigError as error:
        fail(error, 2)
    except (OrganismError, OSError) as error:
        fail(error)
    typer.echo(f"report: {out / 'report.json'}")


def _need_training_side() -> None:
    from importlib.util import find_spec

    if missing := [name for name in ("torch", "transformers") if find_spec(name) is None]:
        fail(f"training needs {' and '.join(missing)}: run scripts/setup, or install the extra `train`")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def main() -> None:
    """Entry point of the `steer` command."""
    app()


if __name__ == "__main__":
    main()
