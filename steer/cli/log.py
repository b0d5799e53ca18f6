"""`steer log …`: the intervention log's upkeep. See docs/log.md."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from steer.cli.common import Config, fail, given

if TYPE_CHECKING:
    from proxy.log.query import Filters
    from proxy.settings import Settings
    from steer.record import InterventionRecord

log = typer.Typer(help="The intervention log: look, copy, delete, check. See docs/log.md.", no_args_is_help=True)

LogUrl = Annotated[str | None, typer.Option("--log", help="URL of the intervention log; default: as in the settings")]
Tenant = Annotated[str | None, typer.Option(help="only this tenant's")]
Since = Annotated[datetime | None, typer.Option(help="from this moment on, UTC")]
Until = Annotated[datetime | None, typer.Option(help="up to this moment, UTC")]
Outcome = Annotated[str | None, typer.Option(help="only with this outcome, e.g. completed")]
Category = Annotated[str | None, typer.Option(help="only of this harm category")]
Model = Annotated[str | None, typer.Option(help="only of this model")]
Review = Annotated[str | None, typer.Option(help="only unreviewed, confirmed or false_halt")]


class ExportFormat(StrEnum):
    """As `proxy.log.formats.Format`, which this module loads only when a command runs."""

    jsonl = "jsonl"
    parquet = "parquet"
    hf = "hf"
    argilla = "argilla"
    label_studio = "label-studio"


class ImportFormat(StrEnum):
    """What is imported."""

    jsonl = "jsonl"
    traces = "traces"


@contextmanager
def settings_for(command: str, config: Path | None, log_url: str | None) -> Iterator["Settings"]:
    """The settings, once it is known that one may; failures end the command with their message."""
    from detector.errors import DetectorError
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.errors import ConfigError
    from proxy.log.errors import KeyUnusable, LogError, LogUrlError
    from proxy.settings import load_settings

    try:
        settings = load_settings(config, {"log": given(url=log_url)})
        admit(command, settings)
        yield settings
    except (ConfigError, LogUrlError, KeyUnusable) as error:
        fail(error, 2)
    except (AccessError, LogError, DetectorError, OSError, ValueError) as error:
        fail(error)


def _filters(
    tenant: str | None, since: datetime | None, until: datetime | None, outcome: str | None, category: str | None,
    model: str | None, review: str | None,
) -> "Filters":  # fmt: skip
    from typing import get_args

    from proxy.log.query import Filters
    from steer.record import Outcome as Outcomes
    from steer.record import ReviewState

    for name, value, known in (("--outcome", outcome, Outcomes), ("--review", review, ReviewState)):
        if value is not None and value not in get_args(known):
            fail(f"{name}: {value} is none of {', '.join(get_args(known))}", 2)
    return Filters(
        tenant=tenant, since=since, until=until, outcome=outcome, category=category, model=model, review_state=review  # type: ignore[arg-type]  # checked above
    )  # fmt: skip


@log.command("stats")
def stats(
    tenant: Tenant = None, since: Since = None, until: Until = None, outcome: Outcome = None, category: Category = None,
    model: Model = None, review: Review = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of a table")] = False,
    config: Config = None, log_url: LogUrl = None,
) -> None:  # fmt: skip
    """Count interventions by kind; no text is read."""
    from dataclasses import asdict

    filters = _filters(tenant, since, until, outcome, category, model, review)
    with settings_for("log stats", config, log_url) as settings:
        from proxy.log.setup import open_reader

        async def read() -> dict[str, object]:
            async with open_reader(settings.log) as reader:
                return asdict(await reader.stats(filters))

        found = anyio.run(read)
    if as_json:
        typer.echo(json.dumps(found, default=str, indent=2))
        return
    for name, value in found.items():
        if isinstance(value, dict):
            typer.echo(name)
            for key, number in sorted(value.items(), key=lambda item: -item[1]):
                typer.echo(f"  {number:10d}  {key}")
        else:
            typer.echo(f"{name:18s} {'-' if value is None else value}")


@log.command("export")
def export(
    out: Annotated[Path, typer.Option("--out", help="file to write; for hf a folder")],
    form: Annotated[ExportFormat, typer.Option("--format", help="what to write")] = ExportFormat.jsonl,
    for_training: Annotated[
        bool, typer.Option("--for-training", help="leave out tenants that opted out, and records without whole text")
    ] = False,
    tenant: Tenant = None, since: Since = None, until: Until = None, outcome: Outcome = None, category: Category = None,
    model: Model = None, review: Review = None, config: Config = None, log_url: LogUrl = None,
) -> None:  # fmt: skip
    """Write records to a file, oldest first. The file holds people's text: keep it as you keep the log."""
    filters = _filters(tenant, since, until, outcome, category, model, review)
    with settings_for("log export", config, log_url) as settings:
        from proxy.log import exports
        from proxy.log.setup import open_reader
        from proxy.log.training import may_train

        async def write() -> tuple[int, int]:
            written = skipped = 0
            async with open_reader(settings.log) as reader:
                fits = await may_train(reader) if for_training else None
                with exports.opened(out, form.value) as sink:
                    async for record in reader.export(filters):
                        if (fits is None or fits(record)) and sink(record):
                            written += 1
                        else:
                            skipped += 1
            return written, skipped

        written, skipped = anyio.run(write)
    typer.echo(f"{written} records in {out}" + (f", {skipped} left out" if skipped else ""))


@log.command("import")
def import_(
    source: Annotated[Path, typer.Option("--in", help="JSONL, gzip too")],
    form: Annotated[
        ImportFormat, typer.Option("--format", help="jsonl: of `steer log export`; traces: as `steer detect` reads")
    ] = ImportFormat.jsonl,
    tenant: Annotated[str, typer.Option(help="of imported traces")] = "imported",
    model: Annotated[str, typer.Option(help="that made imported traces")] = "unknown",
    config: Config = None, log_url: LogUrl = None,
) -> None:  # fmt: skip
    """Add records, or the first cues of foreign traces. What is there already is left as it is."""
    with settings_for("log import", config, log_url) as settings:
        from detector.artifact import load_artifact
        from proxy.log.imports import Foreign, read_foreign, read_records, take_in
        from proxy.log.setup import open_log
        from proxy.rules import make_policy

        async def write() -> tuple[int, int]:
            if form is ImportFormat.jsonl:
                records: Iterator[InterventionRecord | None] = read_records(source)
            else:
                artifact = load_artifact(settings.detector.artifact)
                records = read_foreign(source, Foreign(artifact, make_policy(settings, artifact), tenant, model))
            async with open_log(settings.log) as opened:
                return await take_in(opened, records)

        taken, without_cue = anyio.run(write)
    typer.echo(f"{taken} records taken" + (f", {without_cue} traces have no cue" if without_cue else ""))


@log.command("purge")
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
        from proxy.log.connect import open_engine, parse_url
        from proxy.log.purge import Purge, carry_out, ids_of
        from steer.cli.snapshots import Gone, reach

        for folder in snapshots or []:
            if not folder.is_dir():
                fail(f"--snapshots: {folder} is no folder", 2)
        wanted = Purge(before, request, tenant)
        url = parse_url(settings.log.url)
        looking, engine = open_engine(url, writes=False), open_engine(url, writes=True)
        ids = ids_of(looking, wanted)
        looking.dispose()
        is_whole_tenant = tenant is not None and before is None and request is None
        # Copies first: once the log has forgotten the ids, nobody could find them.
        reached = reach(snapshots or [], Gone(frozenset(ids), tenant if is_whole_tenant else None), dry_run=dry_run)
        rows = 0 if dry_run else sum(carry_out(engine, wanted))
        engine.dispose()
    typer.echo(f"{len(ids)} records" + (" would go" if dry_run else f" ({rows} rows) are gone from the log"))
    for path, number in (*reached.snapshots.items(), *reached.rollouts.items()):
        typer.echo(f"{number} lines {'would go' if dry_run else 'are gone'} from {path}")
    for path in reached.adapters:
        typer.echo(f"trained on purged pairs: {path}; train it anew, or retire it")


@log.command("verify")
def verify(config: Config = None, log_url: LogUrl = None) -> None:
    """Check every record: damage, orphans, half-written or locked text, counts. Exit code 1 where anything is wrong."""
    with settings_for("log verify", config, log_url) as settings:
        from proxy.log.connect import open_engine, parse_url
        from proxy.log.setup import make_spool, make_texts
        from proxy.log.verify import verify as look_over

        engine = open_engine(parse_url(settings.log.url), writes=False)
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


@log.command("backup")
def backup(
    out: Annotated[Path, typer.Option("--out", help="file to write")], config: Config = None, log_url: LogUrl = None
) -> None:
    """Copy a SQLite log while it is in use. PostgreSQL: pg_dump."""
    with settings_for("log backup", config, log_url) as settings:
        from proxy.log.connect import parse_url
        from proxy.log.upkeep import backup as copy

        size = copy(parse_url(settings.log.url), out)
    typer.echo(f"{size} bytes in {out}")


@log.command("rekey")
def rekey(config: Config = None, log_url: LogUrl = None) -> None:
    """Encrypt every text with the first of log.encryption_key; the keys of old texts must still be there."""
    with settings_for("log rekey", config, log_url) as settings:
        from proxy.log.connect import open_engine, parse_url
        from proxy.log.setup import make_texts
        from proxy.log.upkeep import rekey as write_anew

        texts = make_texts(settings.log)
        if texts.cipher is None:
            fail("set log.encryption_key, its new key first, then those that texts were written with", 2)
        engine = open_engine(parse_url(settings.log.url), writes=True)
        number = sum(write_anew(engine, texts))
        engine.dispose()
    typer.echo(f"{number} texts written anew")


@log.command("new-key")
def make_key() -> None:
    """Print a fresh key for log.encryption_key."""
    from proxy.log.cipher import new_key
    from proxy.log.errors import KeyUnusable

    try:
        typer.echo(new_key())
    except KeyUnusable as error:
        fail(error)
