"""`steer log …`: what is in the intervention log, out of it, and into it. See docs/log.md."""

import json
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import anyio
import typer

from steer.cli import log_upkeep
from steer.cli.common import Config, fail
from steer.cli.log_shared import LogUrl, admitted, settings_for

if TYPE_CHECKING:
    from proxy.log.query import Filters
    from steer.record import InterventionRecord

log = typer.Typer(help="The intervention log: look, copy, delete, check. See docs/log.md.", no_args_is_help=True)

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
    trust_reviews: Annotated[
        bool, typer.Option("--trust-reviews", help="keep decisions of others; the audit trail says that you did")
    ] = False,
    config: Config = None, log_url: LogUrl = None,
) -> None:  # fmt: skip
    """Add records, or the first cues of foreign traces. What is there already is left as it is."""
    with admitted("log import", config, log_url) as (settings, who):
        from detector.artifact import load_artifact
        from proxy.log.imports import Foreign, Taken, read_foreign, read_records, take_in
        from proxy.log.setup import open_log
        from proxy.rules import make_policy

        importer = {"id": who.actor, "role": who.role.value} if trust_reviews else None

        async def write() -> Taken:
            if form is ImportFormat.jsonl:
                records: Iterator[InterventionRecord | None] = read_records(source)
            else:
                artifact = load_artifact(settings.detector.artifact)
                records = read_foreign(source, Foreign(artifact, make_policy(settings, artifact), tenant, model))
            async with open_log(settings.log) as opened:
                return await take_in(opened, records, importer=importer)

        taken = anyio.run(write)
    said = {
        "traces have no cue": taken.without_cue,
        "stay out: they were purged": taken.purged,
        "are unreviewed now: --trust-reviews keeps the decisions of others": taken.reset,
    }
    typer.echo(", ".join([f"{taken.records} records taken", *(f"{n} {words}" for words, n in said.items() if n)]))


log.command("purge")(log_upkeep.purge)
log.command("verify")(log_upkeep.verify)
log.command("backup")(log_upkeep.backup)
log.command("rekey")(log_upkeep.rekey)
log.command("new-key")(log_upkeep.make_key)
