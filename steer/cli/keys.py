"""`steer keys …`: who may call the proxy, and run the commands that are not everybody's."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.common import Config, fail, given

if TYPE_CHECKING:
    from proxy.access.identity import Identity
    from proxy.access.model import Key
    from proxy.access.store import AccessStore
    from proxy.settings import Settings

keys = typer.Typer(help="Keys: who may call, review, operate and administer. See docs/access.md.", no_args_is_help=True)

LogUrl = Annotated[str | None, typer.Option("--log", help="URL of the intervention log; default: as in the settings")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
_MOST = 2**31 - 1  # what a database's column holds
RequestsPerMinute = Annotated[int | None, typer.Option(min=0, max=_MOST, help="per process; 0: no limit of its own")]
TokensPerMinute = Annotated[
    int | None, typer.Option(min=0, max=_MOST, help="per process, prompt and generated; 0: none of its own")
]
MaxConcurrent = Annotated[
    int | None, typer.Option(min=0, max=_MOST, help="requests at a time, per process; 0: none of its own")
]

_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class KeyRole(StrEnum):
    """As `proxy.access.roles.Role`, which this module loads only when a command runs."""

    client = "client"
    reviewer = "reviewer"
    operator = "operator"
    admin = "admin"


@contextmanager
def opened(
    command: str, config: Path | None, log_url: str | None
) -> Iterator[tuple["AccessStore", "Settings", "Identity"]]:
    """The store, the settings and who runs the command; failures end it with their message."""
    from proxy.access.command import admit
    from proxy.access.errors import AccessError
    from proxy.access.store import AccessStore
    from proxy.errors import ConfigError
    from proxy.log.errors import LogError
    from proxy.settings import load_settings

    try:
        settings = load_settings(config, {"log": given(url=log_url)})
        identity = admit(command, settings)
        with AccessStore.open(settings.log.url) as store:
            yield store, settings, identity
    except ConfigError as error:
        fail(error, 2)
    except (AccessError, LogError) as error:
        fail(error)


@keys.command("create")
def create(
    role: Annotated[KeyRole, typer.Option(help="what the key is for")],
    tenant: Annotated[str, typer.Option(help="whose traffic it is")] = "default",
    name: Annotated[str, typer.Option(help="who or what will use it, for people")] = "",
    expires: Annotated[str | None, typer.Option(help="lifetime: 90d, 12h, 30m; default: none")] = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_concurrent: MaxConcurrent = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from proxy.access.model import Quota
    from proxy.access.roles import Role

    lifetime = None if expires is None else _duration("--expires", expires)
    quota = Quota(requests_per_minute or None, tokens_per_minute or None, max_concurrent or None)
    with opened("keys create", config, log_url) as (store, _, identity):
        issued = store.create_key(
            role=Role(role.value),
            tenant=tenant,
            name=name,
            lifetime_us=None if lifetime is None else lifetime // timedelta(microseconds=1),
            quota=quota,
            by=identity,
        )
    _hand_over(issued.text, f"key {issued.key.id} of tenant {tenant}, role {role.value}")


@keys.command("list")
def list_keys(
    tenant: Annotated[str | None, typer.Option(help="only this tenant's")] = None,
    all_states: Annotated[bool, typer.Option("--all", help="revoked and expired ones too")] = False,
    as_json: AsJson = False,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Show keys; their secrets are not kept."""
    from proxy.log.rows import now_us

    with opened("keys list", config, log_url) as (store, _, _identity):
        found = store.everything().keys.values()
    moment_us = now_us()
    rows = [
        _row(key, moment_us)
        for key in sorted(found, key=lambda key: key.created_us)
        if (tenant is None or key.tenant == tenant) and (all_states or key.state(moment_us) == "active")
    ]
    show(rows, as_json)


@keys.command("revoke")
def revoke(
    ids: Annotated[list[str], typer.Argument(help="ids, as `steer keys list` shows them")],
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """End keys for good; every proxy on this log refuses them within 5 s."""
    with opened("keys revoke", config, log_url) as (store, _, identity):
        for key_id in ids:
            store.revoke_key(key_id, by=identity)
            typer.echo(f"key {key_id} is revoked")


@keys.command("rotate")
def rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="as `steer keys list` shows it")],
    overlap: Annotated[str, typer.Option(help="how long the old key goes on: 24h, 30m, 0m")] = "24h",
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Make a successor with the same rights; the old key ends after the overlap."""
    overlap_us = _duration("--overlap", overlap) // timedelta(microseconds=1)
    with opened("keys rotate", config, log_url) as (store, _, identity):
        issued = store.rotate_key(key_id, overlap_us=overlap_us, by=identity)
    _hand_over(issued.text, f"key {issued.key.id} succeeds {key_id}, which works for another {overlap}")


def show(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Rows of like keys, as aligned columns or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    if not rows:
        typer.echo("none")
        return
    lines = [list(rows[0])] + [["-" if value in (None, "") else str(value) for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        typer.echo("  ".join(value.ljust(width) for value, width in zip(line, widths, strict=True)).rstrip())


def quota_text(quota: Any) -> str:
    """Limits in few characters: requests and tokens a minute, and requests at a time."""
    parts = {
        "/min": quota.requests_per_minute,
        " tokens/min": quota.tokens_per_minute,
        " at once": quota.max_concurrent,
    }
    return ", ".join(f"{value}{unit}" for unit, value in parts.items() if value is not None)


def _row(key: "Key", moment_us: int) -> dict[str, Any]:
    from proxy.log.rows import moment

    def day(value_us: int | None) -> str | None:
        return None if value_us is None else moment(value_us).isoformat(timespec="minutes")

    return {
        "id": key.id,
        "role": key.role.value,
        "tenant": key.tenant,
        "name": key.name,
        "state": key.state(moment_us),
        "created": day(key.created_us),
        "created_by": key.created_by,
        "expires": day(key.expires_us),
        "last_used": day(key.last_used_us),
        "limits": quota_text(key.quota),
    }


def _duration(option: str, text: str) -> timedelta:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS or len(number) > 6:
        fail(f"{option}: write a number of days, hours or minutes (90d, 12h, 30m), not {text!r}", 2)
    return int(number) * _UNITS[unit]


def _hand_over(text: str, what: str) -> None:
    """The key alone on standard output, so that it can go into a file or a secret store without being seen."""
    typer.echo(text)
    typer.echo(f"{what}. This is the only time it is shown.", err=True)
