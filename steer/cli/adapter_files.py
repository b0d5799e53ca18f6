"""`steer adapters gate|add|merge`: what needs the files of an adapter, and the training side to read them."""

from pathlib import Path
from typing import Annotated

import typer

from steer.cli.adapters import AsJson, LogUrl, opened
from steer.cli.common import Config, fail, need_training_side

Limits = Annotated[Path | None, typer.Option("--limits", help="TOML of the gate's limits; default: its own")]


def gate(
    incumbent: Annotated[Path, typer.Argument(help="report.json of steer eval, or its folder: what serves")],
    candidate: Annotated[Path, typer.Argument(help="the same of what is to take over")],
    limits: Limits = None,
    as_json: AsJson = False,
) -> None:
    """Ask the gate about two reports. Exit code 0: it promotes; 1: it refuses."""
    need_training_side()
    from train.gate.files import GateFileError, decide_files, read_limits

    try:
        decision = decide_files(incumbent, candidate, read_limits(limits))
    except GateFileError as error:
        fail(error, 2)
    if as_json:
        typer.echo(decision.model_dump_json(indent=1))
    else:
        for check in decision.checks:
            typer.echo(f"{'ok  ' if check.finding == 'kept' else 'FAIL'}  {check.name}: {check.reason}")
    if not decision.promotes:
        raise typer.Exit(1)


def add(
    folder: Annotated[Path, typer.Argument(help="an adapter's folder (OUT/adapter of steer train ipo)")],
    name: Annotated[str, typer.Option(help="name of the adapter; versions are numbered by themselves")],
    base: Annotated[str, typer.Option(help="folder or hub name of the base model, to check the adapter against")],
    alias: Annotated[str, typer.Option(help="what clients ask for")],
    base_model: Annotated[str | None, typer.Option(help="what the engine calls the base; default: the alias")] = None,
    reports: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--gate", metavar="INCUMBENT CANDIDATE", help="two reports of steer eval: what the gate says"),
    ] = None,
    limits: Limits = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Check an adapter's files and register them as the next version. It takes no traffic yet."""
    need_training_side()
    with opened("adapters add", config, log_url) as (registry, actor):
        from proxy.adapters.changes import NewAdapter, register
        from train.adapters.base import read_base
        from train.adapters.check import check_adapter
        from train.adapters.errors import AdapterError
        from train.gate.files import GateFileError, decide_files, read_limits

        try:
            checked = check_adapter(folder.resolve(), read_base(base))
            decision = None if reports is None else decide_files(*reports, read_limits(limits), checked.sha256)
        except (AdapterError, GateFileError) as error:
            fail(error)
        new = NewAdapter(
            name,
            alias,
            base_model or alias,
            str(checked.folder),
            checked.sha256,
            checked.manifest or {},
            None if decision is None else decision.model_dump(mode="json"),
        )
        typer.echo(registry.change(lambda c: register(c, new, actor)))
        for reason in [] if decision is None else decision.reasons:
            typer.echo(f"the gate refuses it: {reason}")


def merge(
    folder: Annotated[Path, typer.Argument(help="an adapter's folder")],
    base: Annotated[str, typer.Option(help="folder or hub name of the base model")],
    out: Annotated[Path, typer.Option("--out", help="folder of the merged model")],
) -> None:
    """Merge an adapter into full weights, for engines without LoRA."""
    need_training_side()
    from train.adapters.base import read_base
    from train.adapters.errors import AdapterError
    from train.adapters.merge import merge_adapter

    try:
        manifest = merge_adapter(folder, read_base(base), out)
    except (AdapterError, OSError) as error:
        fail(error)
    typer.echo(f"{out}: {len(manifest['files'])} files of weights, sha256 {manifest['sha256']}")
