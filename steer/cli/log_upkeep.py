"""`steer log purge`, `verify`, `backup`, `rekey`, `new-key`: what is done to a whole log."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from steer.cli.common import Config, fail
from steer.cli.log_shared import LogUrl, settings_for


def purge(
    before: Annotated[datetime | None, typer.Option(help="records made before this moment, UTC")] = None,
    request: Annotated[str | None, typer.Option(help="records of this request id")] = None,
    tenant: Annotated[str | None, typer.Option(help="records of this tenant")] = None,
    snapshots: Annotated[
        list[Path] | None,
        typer.Option("--snapshots", help="folder that holds pair snapshots, rollouts and adapters; may be repeated"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and change nothing")] = False,
    config: Config = None, log_url: LogUrl = None,
) -> None:  # fmt: skip
    """Delete records with their text and reviews, also from frozen training snapshots; name the adapters they fed."""
    if before is None and request is None and tenant is None:
        fail("say what to purge: --before, --request or --tenant", 2)
    with settings_for("log purge", config, log_url) as settings:
        from proxy.log.migrate import open_existing
        from proxy.log.purge import carry_out, ids_of
        from proxy.log.purges import Purge, remember
        from proxy.log.rejected import purge_rejected
        from proxy.log.setup import make_spool
        from steer.cli.snapshots import Gone, reach

        for folder in snapshots or []:
            if not folder.is_dir():
                fail(f"--snapshots: {folder} is no folder", 2)
        wanted = Purge(before, request, tenant)
        looking, engine = open_existing(settings.log.url)
        if not dry_run:
            remember(engine, wanted)  # first: what is under way, in a spool for one, must not come after
        ids = ids_of(looking, wanted)
        looking.dispose()
        is_whole_tenant = tenant is not None and before is None and request is None
        # Copies first: once the log has forgotten the ids, nobody could find them.
        reached = reach(snapshots or [], Gone(frozenset(ids), tenant if is_whole_tenant else None), dry_run=dry_run)
        rejected, lines = purge_rejected(make_spool(settings.log).folder, wanted, ids, dry_run=dry_run)
        rows = 0 if dry_run else sum(carry_out(engine, wanted))
        engine.dispose()
    typer.echo(f"{len(ids)} records" + (" would go" if dry_run else f" ({rows} rows) are gone from the log"))
    others = {rejected: lines} if lines else {}
    for path, number in (*others.items(), *reached.snapshots.items(), *reached.rollouts.items()):
        typer.echo(f"{number} lines {'would go' if dry_run else 'are gone'} from {path}")
    for path in reached.adapters:
        typer.echo(f"trained on purged pairs: {path}; train it anew, or retire it")


def verify(config: Config = None, log_url: LogUrl = None) -> None:
    """Check every record: damage, orphans, half-written or locked text, counts. Exit code 1 where anything is wrong."""
    with settings_for("log verify", config, log_url) as settings:
        from proxy.log.migrate import open_existing
        from proxy.log.setup import make_spool, make_texts
        from proxy.log.verify import verify as look_over

        engine, writing = open_existing(settings.log.url)
        writing.dispose()
        findings = look_over(engine, make_texts(settings.log), make_spool(settings.log))
        engine.dispose()
    typer.echo(f"{findings.interventions} records looked at")
    for kind, named in findings.problems.items():
        typer.echo(f"{findings.counts[kind]} x {kind}")
        for what in named:
            typer.echo(f"    {what}")
    if findings.problems:
        raise typer.Exit(1)
    typer.echo("all is well")


def backup(
    out: Annotated[Path, typer.Option("--out", help="file to write")], config: Config = None, log_url: LogUrl = None
) -> None:
    """Copy a SQLite log while it is in use. PostgreSQL: pg_dump."""
    with settings_for("log backup", config, log_url) as settings:
        from proxy.log.connect import parse_url
        from proxy.log.upkeep import backup as copy

        size = copy(parse_url(settings.log.url), out)
    typer.echo(f"{size} bytes in {out}")


def rekey(config: Config = None, log_url: LogUrl = None) -> None:
    """Encrypt every text with the first of log.encryption_key; the keys of old texts must still be there."""
    with settings_for("log rekey", config, log_url) as settings:
        from proxy.log.migrate import open_existing
        from proxy.log.setup import make_texts
        from proxy.log.upkeep import rekey as write_anew

        texts = make_texts(settings.log)
        if texts.cipher is None:
            fail("set log.encryption_key, its new key first, then those that texts were written with", 2)
        looking, engine = open_existing(settings.log.url)
        looking.dispose()
        number = sum(write_anew(engine, texts))
        engine.dispose()
    typer.echo(f"{number} texts written anew")


def make_key() -> None:
    """Print a fresh key for log.encryption_key."""
    from proxy.log.cipher import new_key
    from proxy.log.errors import KeyUnusable

    try:
        typer.echo(new_key())
    except KeyUnusable as error:
        fail(error)
