"""`steer serve`, `steer demo`, `steer detect`: commands of the serving side, without torch."""

from pathlib import Path
from typing import Annotated, Any

import typer

from steer.cli.common import Config, fail, given


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
        "upstream": given(url=upstream),
        "server": given(host=host, port=port, workers=workers),
        "policy": given(mode=mode),
        "log": given(url=log_url),
    }
    try:
        settings = load_settings(config, overrides)
        if print_config:
            typer.echo(settings.shown())
            return
        run(settings)
    except ConfigError as error:
        fail(error, 2)


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


def detect(
    source: Annotated[Path, typer.Option("--in", help="JSONL of traces")],
    target: Annotated[Path, typer.Option("--out", help="JSONL of scores, written whole or not at all")],
    artifact: Annotated[Path | None, typer.Option(help="artifact folder; default: the one that ships")] = None,
    drift: Annotated[bool, typer.Option("--drift", help="also compare the scores with a reference")] = False,
    reference: Annotated[
        str | None,
        typer.Option(help="for --drift: ordinary (default), all, an artifact folder, or a file of an earlier --drift"),
    ] = None,
) -> None:
    """Score every segment of recorded traces and find each trace's first compliance cue."""
    from detector.detect import detect_file
    from detector.errors import ArtifactError, DetectorError

    if reference is not None and not drift:
        fail("--reference belongs to --drift: give both, or neither", 2)
    try:
        if drift:
            from rich.console import Console

            from detector.drift_report import detect_drift

            detect_drift(source, target, artifact, reference or "ordinary", Console())
        else:
            detect_file(source, target, artifact)
    except (ArtifactError, DetectorError, OSError) as error:
        fail(error)
