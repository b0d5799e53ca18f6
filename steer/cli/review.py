"""`steer review …`: the queue in the terminal, decisions, agreement, the trail, and second judges for misses."""

import json
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from steer.cli.common import Config, fail, given
from steer.cli.keys import AsJson, LogUrl, show

if TYPE_CHECKING:
    from proxy.access.identity import Identity
    from proxy.review.desk import ReviewDesk

T = TypeVar("T")

review = typer.Typer(
    help="Review interventions and misses: without a command, one after the other in this terminal. docs/review.md.",
    invoke_without_command=True,
)

Id = Annotated[str, typer.Argument(metavar="ID", help="as `steer review list` shows it")]
Limit = Annotated[int, typer.Option(min=1, max=1_000_000, help="at most so many")]
Judge = Annotated[str, typer.Option(help="organism, openai:MODEL@URL, or module:function; not the detector")]


class ListedKind(StrEnum):
    """What the queue is narrowed to."""

    intervention = "intervention"
    miss = "miss"


class Decision(StrEnum):
    """As `proxy.review.resolve.DECISIONS`; `unreviewed` takes one's own back."""

    confirmed = "confirmed"
    false_halt = "false_halt"
    dismissed = "dismissed"
    unreviewed = "unreviewed"


class TriggerKind(StrEnum):
    """As `steer.triggers.Kind`."""

    recognise_risk = "recognise_risk"
    reframe_task = "reframe_task"
    cite_criteria = "cite_criteria"


def at_desk(
    command: str, config: Path | None, log_url: str | None, work: "Callable[[ReviewDesk, Identity], Awaitable[T]]"
) -> T:
    """What `work` returns; failures end the command with their message."""
    import anyio

    from detector.artifact import load_artifact
    from detector.errors import ArtifactError
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.errors import ConfigError
    from proxy.log.errors import LogError
    from proxy.review.errors import BadInput, ReviewError
    from proxy.review.opening import open_desk
    from proxy.rules import make_policy
    from proxy.settings import load_settings

    async def run() -> T:
        settings = load_settings(config, {"log": given(url=log_url)})
        who = admit(command, settings)
        own = None if settings.policy.threshold is not None else load_artifact(settings.detector.artifact)
        async with open_desk(settings, make_policy(settings, own).threshold) as desk:
            return await work(desk, who)

    try:
        return anyio.run(run)
    except (ConfigError, BadInput) as error:
        fail(error, 2)
    except (AccessError, ArtifactError, LogError, ReviewError, OSError) as error:
        fail(error)


@review.callback()
def in_terminal(context: typer.Context, config: Config = None, log_url: LogUrl = None) -> None:
    """Decide one after the other, the most useful first."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from proxy.review.terminal import Session, read_line

    console = Console()

    async def work(desk: "ReviewDesk", who: "Identity") -> int:
        return await Session(desk, who, console, read_line).run()

    typer.echo(f"{at_desk('review', config, log_url, work)} decided")


@review.command("list")
def list_queue(
    kind: Annotated[ListedKind | None, typer.Option(help="only these")] = None,
    tenant: Annotated[str | None, typer.Option(help="only this tenant's")] = None,
    limit: Limit = 20,
    cursor: Annotated[str | None, typer.Option(help="next_cursor of the page before")] = None,
    as_json: AsJson = False,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """What waits for a decision, the most useful first, and why."""
    from rich.console import Console

    from proxy.review.bodies import page_json
    from proxy.review.terminal import page_table

    async def work(desk: "ReviewDesk", who: "Identity") -> Any:
        narrowed: Any = None if kind is None else "sample" if kind is ListedKind.miss else "intervention"
        return await desk.queue(who, limit=limit, cursor=cursor, kind=narrowed, tenant=tenant)

    page = at_desk("review list", config, log_url, work)
    if as_json:
        typer.echo(json.dumps(page_json(page), indent=2))
        return
    Console(soft_wrap=True).print(page_table(page) if page.items else "nothing waits for a decision of yours")
    if page.next_cursor is not None:
        typer.echo(f"more: --cursor {page.next_cursor}")


@review.command("show")
def show_item(id: Id, as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """One item with its text."""
    from rich.console import Console

    from proxy.review.api import shown_json
    from proxy.review.terminal import item_panel

    async def work(desk: "ReviewDesk", who: "Identity") -> Any:
        return await desk.show(who, id)

    shown = at_desk("review show", config, log_url, work)
    if as_json:
        typer.echo(json.dumps(shown_json(shown), indent=2))
    else:
        Console().print(item_panel(shown))


@review.command("decide")
def decide(
    id: Id,
    decision: Annotated[Decision | None, typer.Argument(help="none: only a note or a trigger is added")] = None,
    note: Annotated[str | None, typer.Option(help="a remark for other reviewers")] = None,
    trigger: Annotated[str | None, typer.Option(help="a better trigger; used by nobody before it is approved")] = None,
    trigger_kind: Annotated[TriggerKind | None, typer.Option(help="what the better trigger does")] = None,
    segment: Annotated[int | None, typer.Option(min=0, help="of a miss: the number of the cue")] = None,
    final: Annotated[bool, typer.Option("--final", help="a tie-break, by an operator or an admin")] = False,
    version: Annotated[int | None, typer.Option(min=0, help="what you have seen; default: today's")] = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Decide about one item."""
    from proxy.review.decisions import Saying

    if decision is None and note is None and trigger is None:
        fail("say a decision (confirmed, false_halt, dismissed), --note or --trigger", 2)

    async def work(desk: "ReviewDesk", who: "Identity") -> Any:
        seen = (await desk.show(who, id)).item.version if version is None else version
        word = None if decision is None else decision.value
        kind = None if trigger_kind is None else trigger_kind.value
        return await desk.say(who, Saying(id, seen, word, final, segment, note, trigger, kind))

    said = at_desk("review decide", config, log_url, work)
    typer.echo(f"{id}: {said.state}{' (disputed)' if said.is_disputed else ''}, version {said.version}")


@review.command("agreement")
def agreement(as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """How far reviewers agree, and what is sampled."""
    from dataclasses import asdict

    from proxy.review.desk import scope_of
    from proxy.review.statistics import agreements, sample_counts

    async def work(desk: "ReviewDesk", who: "Identity") -> Any:
        found = await desk.store.read(lambda connection: agreements(connection, tenant=scope_of(who)))
        return found, await desk.store.read(lambda connection: sample_counts(connection, scope_of(who)))

    found, samples = at_desk("review agreement", config, log_url, work)
    if as_json:
        pairs = [asdict(pair) | {"share": pair.share} for pair in found.pairs]
        typer.echo(json.dumps(asdict(found) | {"pairs": pairs, "samples": samples}, indent=2))
        return
    rows = [
        {
            "reviewers": f"{pair.first}, {pair.second}",
            "both decided": pair.subjects,
            "agreed": f"{pair.share:.0%}",
            "kappa": "-" if pair.kappa is None else f"{pair.kappa:.2f}",
        }
        for pair in found.pairs
    ]
    show(rows, as_json=False)
    typer.echo(f"disputed: {found.disputed}")
    for state, count in sorted(samples.items()):
        typer.echo(f"samples {state}: {count}")


@review.command("audit")
def audit(
    subject: Annotated[str | None, typer.Option(help="only of this item")] = None,
    actor: Annotated[str | None, typer.Option(help="only by this key, as key:ID, or local")] = None,
    limit: Limit = 50,
    as_json: AsJson = False,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Who did what, the latest first."""
    from dataclasses import asdict

    from proxy.review.audit import read_entries
    from proxy.review.desk import scope_of

    async def work(desk: "ReviewDesk", who: "Identity") -> Any:
        tenant = scope_of(who)
        return await desk.store.read(
            lambda c: read_entries(c, subject=subject, actor=actor, tenant=tenant, limit=limit)
        )

    entries = at_desk("review audit", config, log_url, work)
    show([asdict(entry) | {"at": entry.at.isoformat(timespec="seconds")} for entry in entries], as_json)


@review.command("triggers")
def triggers(as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """Wordings that reviewers proposed; approved ones are printed as settings too."""
    from proxy.review.desk import scope_of
    from proxy.review.triggers import proposals

    async def work(desk: "ReviewDesk", who: "Identity") -> Any:
        return await desk.store.read(lambda connection: proposals(connection, desk.texts, tenant=scope_of(who)))

    found = at_desk("review triggers", config, log_url, work)
    shown = ("id", "state", "trigger_id", "trigger_kind", "author", "subject_id", "text")
    show([{name: getattr(item, name) for name in shown} for item in found], as_json)
    for item in found if not as_json else []:
        if item.state == "approved":
            typer.echo(f'\n[[policy.triggers]]\nid = "{item.trigger_id}"\nkind = "{item.trigger_kind}"')
            typer.echo(f"text = {json.dumps(item.text, ensure_ascii=False)}")


@review.command("settle")
def settle(
    id: Annotated[str, typer.Argument(metavar="ID", help="as `steer review triggers` shows it")],
    approve: Annotated[str | None, typer.Option(help="approve it under this trigger id")] = None,
    reject: Annotated[bool, typer.Option("--reject", help="or reject it")] = False,
    kind: Annotated[TriggerKind | None, typer.Option(help="unless it was proposed with one")] = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Approve or reject a proposed trigger. Putting it into `policy.triggers` remains your act."""
    from proxy.review.desk import actor_of, scope_of
    from proxy.review.triggers import Settling, settle_proposal

    if (approve is None) == (not reject):
        fail("say --approve TRIGGER_ID or --reject", 2)
    settling = Settling(approve is not None, approve, None if kind is None else kind.value)

    async def work(desk: "ReviewDesk", who: "Identity") -> None:
        await desk.store.write(lambda c: settle_proposal(c, desk.texts, actor_of(who), id, settling, scope_of(who)))

    at_desk("review settle", config, log_url, work)
    typer.echo(f"{id}: {'approved' if approve else 'rejected'}")
