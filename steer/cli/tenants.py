"""`steer tenants …`: whose traffic it is, and what is different for them."""

import tomllib
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steer.cli.common import Config, fail
from steer.cli.keys import AsJson, LogUrl, MaxConcurrent, RequestsPerMinute, TokensPerMinute, opened, quota_text, show

if TYPE_CHECKING:
    from proxy.access.model import Quota, Tenant
    from proxy.settings import Settings

tenants = typer.Typer(help="Tenants: policy, limits and consent to training of each.", no_args_is_help=True)

PolicyValues = Annotated[
    list[str] | None,
    typer.Option("--policy", help="name=value of the policy section for this tenant; name= takes it back; repeatable"),
]
Name = Annotated[str, typer.Argument(help="lower-case letters, digits, . _ -")]
MayTrain = Annotated[bool | None, typer.Option("--train/--no-train", help="whether its traffic may be trained on")]


@tenants.command("create")
def create(
    name: Name,
    policy: PolicyValues = None,
    may_train: MayTrain = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_concurrent: MaxConcurrent = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Make a tenant; what is not given is as in the settings."""
    from proxy.access.model import Quota, Tenant
    from proxy.access.tenants import is_name

    if not is_name(name):
        fail(
            f"NAME: {name!r} can't be a tenant's name: 1 to 64 of a-z, 0-9, . _ -, beginning with a letter or digit", 2
        )
    with opened("tenants create", config, log_url) as (store, settings, identity):
        quota = _quota(Quota(), requests_per_minute, tokens_per_minute, max_concurrent)
        tenant = Tenant(name, _policy({}, policy or []), may_train is not False, quota)
        _check(settings, tenant)
        store.create_tenant(tenant, by=identity)
    typer.echo(f"tenant {name} is there: make its keys with `steer keys create --tenant {name}`")


@tenants.command("set")
def change(
    name: Name,
    policy: PolicyValues = None,
    may_train: MayTrain = None,
    requests_per_minute: RequestsPerMinute = None,
    tokens_per_minute: TokensPerMinute = None,
    max_concurrent: MaxConcurrent = None,
    config: Config = None,
    log_url: LogUrl = None,
) -> None:
    """Change what is given, keep the rest; every proxy on this log follows within 5 s."""
    from proxy.access.errors import UnknownTenant

    with opened("tenants set", config, log_url) as (store, settings, identity):
        known = store.everything().tenants.get(name)
        if known is None:
            raise UnknownTenant(f"there is no tenant {name}: `steer tenants list` shows all")
        tenant = replace(
            known,
            policy=_policy(dict(known.policy), policy or []),
            may_train=known.may_train if may_train is None else may_train,
            quota=_quota(known.quota, requests_per_minute, tokens_per_minute, max_concurrent),
        )
        _check(settings, tenant)
        store.set_tenant(tenant, by=identity)
    typer.echo(f"tenant {name} is changed")


@tenants.command("list")
def list_tenants(as_json: AsJson = False, config: Config = None, log_url: LogUrl = None) -> None:
    """Show tenants and what is different for them."""
    with opened("tenants list", config, log_url) as (store, _, _identity):
        found = store.everything().tenants.values()
    rows = [
        {
            "name": tenant.name,
            "trains": "yes" if tenant.may_train else "no",
            "limits": quota_text(tenant.quota),
            "policy": dict(tenant.policy) if as_json else ", ".join(f"{k}={v}" for k, v in tenant.policy.items()),
        }
        for tenant in sorted(found, key=lambda tenant: tenant.name)
    ]
    show(rows, as_json)


def _quota(known: "Quota", requests: int | None, tokens: int | None, concurrent: int | None) -> "Quota":
    given = {"requests_per_minute": requests, "tokens_per_minute": tokens, "max_concurrent": concurrent}
    return replace(known, **{name: value or None for name, value in given.items() if value is not None})


def _policy(known: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """Values are TOML where they are that, else plain words: threshold=0.4, mode=monitor."""
    for item in changes:
        name, equals, text = item.partition("=")
        if not equals:
            fail(f"--policy: write name=value, not {item!r}", 2)
        known.pop(name, None)
        if text:
            known[name] = _value(text)
    return known


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _check(settings: "Settings", tenant: "Tenant") -> None:
    """Refuses, before anything is written, what proxies with these settings could not use."""
    from detector.artifact import load_artifact
    from detector.errors import ArtifactError
    from proxy.access.tenants import make_rules
    from proxy.errors import ConfigError

    try:
        make_rules(settings, load_artifact(settings.detector.artifact), tenant.policy)
    except (ConfigError, ArtifactError) as error:
        fail(f"--policy: {error}", 2)
