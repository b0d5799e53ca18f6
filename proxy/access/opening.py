"""Puts the gate together, and refuses to listen where anybody could call."""

from collections.abc import Iterator
from contextlib import contextmanager

from detector.artifact import Artifact
from proxy.access.directory import Directory
from proxy.access.gate import Gate
from proxy.access.limits import Failures, Limiter
from proxy.access.model import Quota
from proxy.access.roles import ROUTES, RouteTable
from proxy.access.store import AccessStore
from proxy.access.tenants import make_rules
from proxy.addresses import is_loopback
from proxy.errors import ConfigError
from proxy.log.errors import LogError
from proxy.log.rows import now_us
from proxy.settings import Settings


@contextmanager
def open_gate(settings: Settings, artifact: Artifact | None) -> Iterator[Gate]:
    """The gate of one process, with its directory kept up to date until the block ends. Raises LogError.

    The tenants' rules are made from `settings` and `artifact` (None: an external scorer).
    """
    access = settings.access
    # A path that is turned off is not there, for anybody.
    table = RouteTable(route for route in ROUTES if settings.metrics.enabled or route.path != "/metrics")
    default = Quota(access.requests_per_minute, access.tokens_per_minute, access.max_concurrent)
    with (
        AccessStore.open(settings.log.url) as store,
        Directory(store, lambda overrides: make_rules(settings, artifact, overrides)) as directory,
    ):
        yield Gate(
            table,
            directory,
            Limiter(default),
            Failures(access.failures_per_minute),
            required=access.required,
            is_exposed=not is_loopback(settings.server.host),
            offline_s=access.offline_s,
        )


def check_exposure(settings: Settings) -> None:
    """Raises ConfigError for an address beyond loopback that was not asked for, or that nobody guards.

    Beyond loopback somebody must know who calls: the proxy, by keys of which there must be one that works, or
    (`access.required = "never"`) something in front of it.
    """
    host = settings.server.host
    if is_loopback(host):
        return
    if not settings.server.allow_remote:
        raise ConfigError(
            f"server.host: {host} is reachable from other machines. Use 127.0.0.1, or set server.allow_remote = true "
            "and make a key (`steer keys create --role client`)"
        )
    if settings.access.required == "never":
        return
    try:
        with AccessStore.open(settings.log.url) as store:
            found = store.everything().keys.values()
    except LogError as error:
        raise ConfigError(str(error)) from error
    moment_us = now_us()
    if not any(key.state(moment_us) == "active" for key in found):
        raise ConfigError(
            f"server.host: {host} is reachable from other machines, and there is no key that works. Make one in this "
            "log with `steer keys create --role client` (--config or --log as for `steer serve`), or set "
            'access.required = "never" where something in front of the proxy authenticates callers'
        )
