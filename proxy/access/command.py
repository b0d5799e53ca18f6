"""Who may run a command: the same roles and keys as for requests, shown in the environment.

Whoever can write to the log's database can do anything to it with other tools: the database's rights are the border
against attackers. What is kept here is order among colleagues (an operator does not hand out keys by mistake), and a
name for the audit trail.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from proxy.access import keytext
from proxy.access.errors import CommandDenied
from proxy.access.identity import DEFAULT_TENANT, LOCAL, Identity
from proxy.access.model import Key
from proxy.access.roles import Role, allowed_to_run
from proxy.access.store import AccessStore
from proxy.log.connect import parse_url
from proxy.log.rows import now_us
from proxy.settings import Settings

# The key of who runs commands. In the environment, since a command line is there for every user of a machine to read.
KEY_VARIABLE = "STEER_KEY"
# Commands that see no more than the tenant of who runs them.
_OF_ONE_TENANT = frozenset({"review"})


def admit(command: str, settings: Settings) -> Identity:
    """Who runs `command` (as `proxy.access.roles.COMMANDS` has it). Call it before anything else is done.

    Nobody is asked before there is an administrator (of the tenant `default`), or with `access.required = "never"`.
    Raises CommandDenied, LogError.
    """
    allowed = allowed_to_run(command)
    if allowed is None or settings.access.required == "never" or not _exists(settings.log.url):
        return LOCAL
    with AccessStore.open(settings.log.url) as store:
        keys = store.everything().keys
    if not any(key.role is Role.ADMIN and key.tenant == DEFAULT_TENANT for key in keys.values()):
        return LOCAL
    wanted = " or ".join(sorted(allowed))
    key = _shown(os.environ.get(KEY_VARIABLE, ""), keys)
    if key is None:
        raise CommandDenied(f"`steer {command}` needs a key of role {wanted} that works: put it into {KEY_VARIABLE}")
    if key.role not in allowed:
        raise CommandDenied(f"`steer {command}` needs role {wanted}; the key in {KEY_VARIABLE} has role {key.role}")
    if key.tenant != DEFAULT_TENANT and command.partition(" ")[0] not in _OF_ONE_TENANT:
        raise CommandDenied(
            f"`steer {command}` acts on all tenants, so it needs a key of tenant {DEFAULT_TENANT}; "
            f"the key in {KEY_VARIABLE} is of tenant {key.tenant}"
        )
    return key.identity


def _shown(text: str, keys: Mapping[str, Key]) -> Key | None:
    key = keys.get(keytext.id_of(text) or "")
    is_good = keytext.is_same(text, None if key is None else key.digest)
    return key if key is not None and is_good and key.state(now_us()) == "active" else None


def _exists(url: str) -> bool:
    """A database that is not there has no keys, and asking must not make it."""
    parsed = parse_url(url)
    return parsed.get_backend_name() != "sqlite" or Path(parsed.database or "").is_file()
