"""`steer triggers …`: which triggers may be drawn, how often, and what was learned of them. See docs/triggers.md."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from steer.cli.common import Config, fail, given
from steer.cli.keys import AsJson, LogUrl, show
from steer.cli.review import TriggerKind

if TYPE_CHECKING:
    from proxy.access.identity import Identity
    from proxy.adapters.registry import AdapterRegistry
    from proxy.settings import Settings
    from proxy.triggers.changes import Proposal, Settled
    from proxy.triggers.snapshots import Making
    from steer.trigger_table import TriggerTable

triggers = typer.Typer(
    help="Triggers: proposed, approved, and drawn by what the log has learned. See docs/triggers.md.",
    no_args_is_help=True,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="as `steer triggers list` shows it")]
Reason = Annotated[str | None, typer.Option("--reason", help="why, for the record")]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a command works with."""

    registry: "AdapterRegistry"
    settings: "Settings"
    who: "Identity"

    @property
    def making(self) -> "Making":
        """How tables are made."""
        from proxy.triggers.snapshots import Making

        return Making.of(self.settings.triggers)


@contextmanager
def opened(command: str, config: Path | None, log_url: str | None) -> Iterator[Opened]:
    """The database and who runs the command; failures end it with their message."""
    from detector.errors import DetectorError
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.adapters.registry import AdapterRegistry
    from proxy.errors import ConfigError
    from proxy.log.errors import LogError
    from proxy.settings import load_settings
    from proxy.triggers.errors import BadTrigger, TriggerError

    try:
        settings = load_settings(config, {"log": given(url=log_url)})
        who = admit(command, settings)
        with AdapterRegistry.open(settings.log.url) as registry:
            yield Opened(registry, settings, who)
    except (ConfigError, BadTrigger) as error:
        fail(error, 2)
    except (AccessError, DetectorError, LogError, TriggerError, OSError) as error:
        fail(error)


@triggers.command("list")
def list_triggers(as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """Every wording with its state, and its share where no category is known."""
    from proxy.triggers.rows import read_triggers
    from proxy.triggers.snapshots import newest_version, read_table

    with opened("triggers list", config, log_url) as desk:
        rows = desk.registry.read(read_triggers)
        table = desk.registry.read(read_table) if desk.registry.read(newest_version) else None
    unknown = {} if table is None else table.categories["unknown"]
    told = [
        {"id": row.trigger.id, "state": row.state, "kind": row.trigger.kind, "origin": row.origin,
         "share": f"{unknown[row.trigger.id].share:.1%}" if row.trigger.id in unknown else "-",
         "text": row.trigger.text}
        for row in rows
    ]  # fmt: skip
    show(told, as_json)
    if not as_json and not desk.settings.triggers.adaptive:
        typer.echo("triggers.adaptive is off in these settings: proxies draw from policy.triggers, each as often")


@triggers.command("show")
def show_trigger(id: Id, as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """One trigger: its life, and what followed it in each category."""
    from proxy.triggers.rows import read_trigger
    from proxy.triggers.snapshots import newest_version, read_table

    with opened("triggers show", config, log_url) as desk:
        row = desk.registry.read(lambda c: read_trigger(c, id))
        table = desk.registry.read(read_table) if desk.registry.read(newest_version) else None
    cells = {} if table is None else {name: rows[id] for name, rows in table.categories.items() if id in rows}
    if as_json:
        found = {name: cell.model_dump() for name, cell in cells.items()}
        typer.echo(json.dumps(row.shown() | {"snapshot": table and table.name, "categories": found}, indent=2))
        return
    typer.echo(f"{id}  {row.state}  {row.trigger.kind}\n  {row.trigger.text}")
    typer.echo(f"  proposed by {row.proposed_by} ({row.origin}), settled by {row.settled_by or 'nobody'}")
    if row.reason:
        typer.echo(f"  reason: {row.reason}")
    if row.evidence:
        typer.echo(f"  mined: {json.dumps(row.evidence)}")
    show(
        [
            {"category": name, "share": f"{cell.share:.1%}", "expected success": f"{cell.expected:.1%}",
             "good": cell.successes, "bad": cell.failures, "of it judged": cell.judged}
            for name, cell in cells.items()
        ],
        as_json=False,
    )  # fmt: skip


@triggers.command("propose")
def propose_triggers(
    source: Annotated[Path | None, typer.Option("--from", help="mined_triggers.json of `steer csr`")] = None,
    id: Annotated[str | None, typer.Option("--id", help="or one of your own: its id")] = None,
    kind: Annotated[TriggerKind | None, typer.Option("--kind", help="what it does")] = None,
    text: Annotated[str | None, typer.Option("--text", help="what it says: one line that ends as a sentence")] = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Propose wordings. All are checked, by the detector too; none is used before an operator approves it."""
    from proxy.review.desk import actor_of
    from proxy.triggers.changes import Proposal, propose
    from proxy.triggers.mined import read_mined
    from proxy.triggers.wording import parse_trigger

    with opened("triggers propose", config, log_url) as desk:
        if (source is None) == (id is None) or (source is None and (kind is None or text is None)):
            fail("give --from FILE, or --id, --kind and --text", 2)
        if source is not None:
            proposals = read_mined(source)
        else:
            values = {"id": id, "kind": None if kind is None else kind.value, "text": text}
            proposals = [Proposal(parse_trigger(values, "trigger"))]
        refused = _checked(desk, proposals)
        good = [proposal for proposal in proposals if proposal.trigger.id not in refused]
        written = desk.registry.change(lambda c: propose(c, actor_of(desk.who), good))
    for reason in refused.values():
        typer.echo(f"refused: {reason}", err=True)
    typer.echo(f"{len(written)} proposed: {', '.join(written) or 'nothing new'}")
    if refused:
        raise typer.Exit(1)


def _checked(desk: Opened, proposals: "list[Proposal]") -> dict[str, str]:
    """Why some may not be proposed, by id."""
    import anyio

    from detector.artifact import load_artifact
    from detector.scoring import ScoringQueue
    from proxy.rules import make_policy
    from proxy.triggers.errors import BadTrigger
    from proxy.triggers.wording import Wording, check_with_detector

    async def run() -> dict[str, str]:
        artifact = load_artifact(desk.settings.detector.artifact)
        wording = Wording.of(desk.settings, make_policy(desk.settings, artifact).threshold)
        found = {}
        async with ScoringQueue(artifact) as scorer:
            for proposal in proposals:
                try:
                    await check_with_detector(proposal.trigger, wording, scorer)
                except BadTrigger as error:
                    found[proposal.trigger.id] = str(error)
        return found

    return anyio.run(run)


@triggers.command("approve")
def approve(id: Id, reason: Reason = None, config: Config = None, log_url: LogUrl = None) -> None:
    """Put a proposed (or retired) trigger to use."""
    _settle("triggers approve", id, "approved", reason, config, log_url)


@triggers.command("reject")
def reject(id: Id, reason: Reason = None, config: Config = None, log_url: LogUrl = None) -> None:
    """Turn a proposed trigger down."""
    _settle("triggers reject", id, "rejected", reason, config, log_url)


@triggers.command("retire")
def retire(id: Id, reason: Reason = None, config: Config = None, log_url: LogUrl = None) -> None:
    """Take a trigger out of use. Its id stays its own."""
    _settle("triggers retire", id, "retired", reason, config, log_url)


def _settle(
    command: str, id: str, state: "Settled", reason: str | None, config: Path | None, log_url: str | None
) -> None:
    from proxy.review.desk import actor_of
    from proxy.triggers.snapshots import settle_and_publish

    with opened(command, config, log_url) as desk:
        desk.registry.change(lambda c: settle_and_publish(c, actor_of(desk.who), id, state, reason, desk.making))
    follow = "proxies follow within seconds" if desk.settings.triggers.adaptive else "triggers.adaptive is off here"
    typer.echo(f"{id} is {state}; {follow}")


@triggers.command("refresh")
def refresh_table(config: Config = None, log_url: LogUrl = None) -> None:
    """Make a new selection table from the log now, if it would differ."""
    from proxy.triggers.snapshots import refresh

    with opened("triggers refresh", config, log_url) as desk:
        table, is_new = desk.registry.change(lambda c: refresh(c, desk.making, desk.who.actor))
    typer.echo(f"selection table {table.name}{'' if is_new else ': the log moves nothing by more than a point'}")


@triggers.command("snapshot")
def snapshot(
    version: Annotated[int | None, typer.Argument(min=1, help="default: the newest")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="write it to this file")] = None,
    as_json: AsJson = False,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Show or write a selection table: version, hash, shares by category. A table never changes."""
    from proxy.triggers.snapshots import read_table

    with opened("triggers snapshot", config, log_url) as desk:
        table = desk.registry.read(lambda c: read_table(c, version))
        if out is not None:
            out.write_text(table.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(table.model_dump_json(indent=2))
        return
    typer.echo(f"selection table {table.name}, made {table.made_at:%Y-%m-%d %H:%M} UTC, sha256 {table.sha256}")
    show(_shares(table), as_json=False)


def _shares(table: "TriggerTable") -> list[dict[str, str]]:
    """A row a trigger, a column a category."""
    return [
        {"trigger": trigger.id} | {name: f"{rows[trigger.id].share:.1%}" for name, rows in table.categories.items()}
        for trigger in table.triggers
    ]
