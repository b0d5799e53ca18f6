"""`steer adapters …`: versions, who gets which, and the way back. See docs/bake.md."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.common import Config, fail, given

if TYPE_CHECKING:
    from proxy.adapters.registry import AdapterRegistry
    from proxy.adapters.rows import Adapter, RouteRow

adapters = typer.Typer(
    help="Adapters: versions, who gets which, and the way back. See docs/bake.md.", no_args_is_help=True
)

LogUrl = Annotated[str | None, typer.Option("--log", help="URL of the intervention log; default: as in the settings")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Version = Annotated[str, typer.Argument(help="a version, like safe@7")]
Reason = Annotated[str | None, typer.Option("--reason", help="why, for the record")]
Override = Annotated[
    str | None, typer.Option("--override", help="let it through against its gate, for this reason; needs --by")
]
By = Annotated[str | None, typer.Option("--by", help="who overrides the gate")]


@contextmanager
def opened(command: str, config: Path | None, log_url: str | None) -> Iterator[tuple["AdapterRegistry", str]]:
    """The registry and who runs the command; failures end it with their message."""
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.adapters.errors import AdapterError
    from proxy.adapters.registry import AdapterRegistry
    from proxy.errors import ConfigError
    from proxy.log.errors import LogError, LogUrlError
    from proxy.settings import load_settings
    from steer.adapter import AdapterNameError

    try:
        settings = load_settings(config, {"log": given(url=log_url)})
        identity = admit(command, settings)
        with AdapterRegistry.open(settings.log.url) as registry:
            yield registry, identity.actor
    except (ConfigError, LogUrlError, AdapterNameError) as error:
        fail(error, 2)
    except (AccessError, AdapterError, LogError, ValueError) as error:
        fail(error)


@adapters.command("list")
def list_adapters(as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """Show aliases with their champion and candidate, and every version."""
    from proxy.adapters.rows import read_adapters, read_routes

    with opened("adapters list", config, log_url) as (registry, _):
        routes, found = registry.read(read_routes), registry.read(read_adapters)
    if as_json:
        typer.echo(json.dumps({"routes": [_route(r) for r in routes], "adapters": [_plain(a) for a in found]}))
        return
    for row in routes:
        route = row.route
        share = f", candidate {route.candidate} at {route.weight:.0%}" if route.candidate else ""
        share += f", in shadow {route.shadow} at {route.shadow_share:.1%}" if route.shadow else ""
        back = f", standing by {row.standby}" if row.standby else ""
        off = "  SWITCHED OFF: the base model serves" if route.is_off else ""
        typer.echo(f"{route.alias} -> {route.champion or f'{route.base_model} (no adapter)'}{share}{back}{off}")
    for adapter in found:
        gate = "no gate" if adapter.gate is None else "passed" if adapter.has_passed else "refused"
        typer.echo(
            f"  {adapter.id:24s} {adapter.state:10s} {gate:8s} {adapter.created_at:%Y-%m-%d %H:%M}  "
            f"{adapter.sha256[:12]}  {adapter.reason or ''}".rstrip()
        )


@adapters.command("show")
def show(id: Version, as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """Show one version: its parents, its gate, its life, and its time in shadow beside the champion."""
    from proxy.adapters.rows import read_adapter, read_events
    from proxy.shadow.compare import read_comparison
    from steer.cli.shadow import told as told_of

    with opened("adapters show", config, log_url) as (registry, _):
        adapter = registry.read(lambda c: read_adapter(c, id))
        events = [
            event for event in registry.read(lambda c: read_events(c, adapter.alias, 1000)) if event.adapter == id
        ]
        compared = registry.read(lambda c: read_comparison(c, id))
    if as_json:
        told = [{"at": e.at.isoformat(), "action": e.action, "actor": e.actor, "reason": e.reason} for e in events]
        shown = None if compared is None else compared.shown()
        typer.echo(json.dumps(_plain(adapter) | {"events": told, "shadow": shown}))
        return
    typer.echo(f"{adapter.id}  {adapter.state}  alias {adapter.alias}, base {adapter.base_model}")
    typer.echo(f"  files   {adapter.path}\n  sha256  {adapter.sha256}")
    typer.echo(f"  parents {json.dumps(adapter.manifest.get('parents', {}))}")
    for check in (adapter.gate or {}).get("checks", []):
        typer.echo(
            f"  {'ok  ' if check.get('finding') == 'kept' else 'FAIL'}    {check.get('name')}: {check.get('reason')}"
        )
    for line in [] if compared is None else told_of(compared):
        typer.echo(f"  {line}")
    for event in events:
        typer.echo(f"  {event.at:%Y-%m-%d %H:%M:%S}  {event.action} by {event.actor}  {event.reason or ''}".rstrip())


@adapters.command("promote")
def promote(
    id: Version,
    reason: Reason = None,
    override: Override = None,
    by: By = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Make a version the champion of its alias. The one before stands by."""
    from proxy.adapters import changes

    with opened("adapters promote", config, log_url) as (registry, actor):
        _let_through(registry, id, override, by)
        registry.change(lambda c: changes.promote(c, id, actor, reason))
    typer.echo(f"{id} is the champion; proxies follow within seconds")


@adapters.command("canary")
def canary(
    id: Version,
    weight: Annotated[float, typer.Option(min=0, max=1, help="the candidate's share of conversations")] = 0.1,
    promote_after: Annotated[
        int | None,
        typer.Option(min=1, max=2**31 - 1, help="conversations after which it is promoted by itself; default: never"),
    ] = None,
    reason: Reason = None,
    override: Override = None,
    by: By = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Give a version a share of its alias's conversations; again for another share."""
    from proxy.adapters import changes

    with opened("adapters canary", config, log_url) as (registry, actor):
        _let_through(registry, id, override, by)
        registry.change(lambda c: changes.start_canary(c, id, weight, actor, reason, promote_after))
    typer.echo(f"{id} takes {weight:.0%} of its alias's conversations; proxies follow within seconds")


@adapters.command("rollback")
def rollback(
    target: Annotated[str, typer.Argument(help="an alias, or a version of it")],
    reason: Annotated[str, typer.Option("--reason", help="why, for the record")] = "asked for",
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Take the candidate out; where there is none, the champion: the one that stands by steps in."""
    from proxy.adapters import changes

    with opened("adapters rollback", config, log_url) as (registry, actor):
        alias = registry.change(lambda c: changes.route_of(c, target)).route.alias
        only = target if target != alias else None
        gone = registry.change(lambda c: changes.roll_back(c, alias, actor, reason, only))
    if gone is None:
        fail(f"{target} takes no traffic: there is nothing to roll back")
    typer.echo(f"{gone} is out; proxies follow within seconds")


@adapters.command("retire")
def retire(id: Version, reason: Reason = None, config: Config = None, log_url: LogUrl = None) -> None:
    """Take a version out of service for good: it is unloaded when the last stream on it has ended."""
    from proxy.adapters import changes

    with opened("adapters retire", config, log_url) as (registry, actor):
        registry.change(lambda c: changes.retire(c, id, actor, reason))
    typer.echo(f"{id} goes out of service")


@adapters.command("off")
def off(
    alias: Annotated[str, typer.Argument(help="an alias")],
    reason: Annotated[str, typer.Option("--reason", help="why, for the record")],
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Kill switch: the base model serves all of an alias's conversations, still watched by the proxy."""
    _switch("adapters off", alias, True, reason, config, log_url)


@adapters.command("on")
def on(
    alias: Annotated[str, typer.Argument(help="an alias")],
    reason: Reason = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Undo `off`."""
    _switch("adapters on", alias, False, reason, config, log_url)


def _switch(
    command: str, alias: str, is_off: bool, reason: str | None, config: Path | None, log_url: str | None
) -> None:
    from proxy.adapters import changes

    with opened(command, config, log_url) as (registry, actor):
        registry.change(lambda c: changes.switch(c, alias, is_off=is_off, actor=actor, reason=reason))
    typer.echo(f"{alias} is {'off: the base model serves' if is_off else 'on'}; proxies follow within seconds")


def _let_through(registry: "AdapterRegistry", id: str, override: str | None, by: str | None) -> None:
    from proxy.adapters import changes

    if override is None and by is None:
        return
    if override is None or by is None:
        fail("an override needs both: --override REASON --by NAME", 2)
    registry.change(lambda c: changes.let_through(c, id, by, override))


def _plain(adapter: "Adapter") -> dict[str, Any]:
    return {
        "id": adapter.id, "alias": adapter.alias, "base_model": adapter.base_model, "state": str(adapter.state),
        "reason": adapter.reason, "path": adapter.path, "sha256": adapter.sha256, "manifest": adapter.manifest,
        "gate": adapter.gate, "created_at": adapter.created_at.isoformat(),
        "changed_at": adapter.changed_at.isoformat(),
    }  # fmt: skip


def _route(row: "RouteRow") -> dict[str, Any]:
    route = row.route
    return {
        "alias": route.alias, "base_model": route.base_model, "champion": route.champion, "standby": row.standby,
        "candidate": route.candidate, "weight": route.weight, "is_off": route.is_off,
        "shadow": route.shadow, "shadow_share": route.shadow_share,
    }  # fmt: skip
