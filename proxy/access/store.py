"""Keys and tenants in the database: what commands do to them, and what processes read of them. Blocking.

Every change counts `access_version` up in its own transaction, so that a process sees by one small read that there is
something new, and adds its entry to the audit trail.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, select

from proxy.access import keytext
from proxy.access.errors import TenantExists, UnknownKey, UnknownTenant
from proxy.access.identity import DEFAULT_TENANT, LOCAL, Identity
from proxy.access.model import DEFAULT, Key, Quota, Tenant
from proxy.access.roles import Role
from proxy.access.tables import access_version, keys, tenants
from proxy.access.trail import note_key, note_tenant
from proxy.log import migrate
from proxy.log.connect import parse_url, prepare_file
from proxy.log.failures import translated
from proxy.log.rows import now_us
from proxy.log.sql import insert_once

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Issued:
    """A key as it is handed over. `text` exists here and nowhere else."""

    key: Key
    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """All keys and tenants at one version."""

    version: int
    keys: Mapping[str, Key]
    tenants: Mapping[str, Tenant]


class AccessStore:
    """Reads and writes keys and tenants. `close` it, or use it as a context manager. All methods raise LogError."""

    def __init__(self, reading: Engine, writing: Engine) -> None:
        self._reading, self._writing = reading, writing

    @classmethod
    def open(cls, url: str) -> Self:
        """Open or create the log's database and bring its schema up to date."""
        parsed = parse_url(url)
        prepare_file(parsed)
        return cls(*migrate.open_upgraded(parsed))

    def close(self) -> None:
        """Give back the connections."""
        self._reading.dispose()
        self._writing.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- reading ------------------------------------------------------------------------------------------------------

    def content(self, known: int | None = None) -> Content | None:
        """Everything; None where it is still at the version `known`."""
        with translated(self._reading.url), self._reading.connect() as connection:
            version = connection.execute(select(access_version.c.version)).scalar_one()
            if version == known:
                return None
            found_keys = [Key.of(dict(row)) for row in connection.execute(select(keys)).mappings()]
            found = [Tenant.of(dict(row)) for row in connection.execute(select(tenants)).mappings()]
        return Content(
            version,
            {key.id: key for key in found_keys},
            {DEFAULT_TENANT: DEFAULT} | {tenant.name: tenant for tenant in found},
        )

    def everything(self) -> Content:
        """As `content`, whatever the version."""
        content = self.content()
        assert content is not None, "no version is known"
        return content

    # -- keys ---------------------------------------------------------------------------------------------------------

    def create_key(
        self,
        *,
        role: Role,
        tenant: str = DEFAULT_TENANT,
        name: str = "",
        lifetime_us: int | None = None,
        quota: Quota = Quota(),  # noqa: B008 - frozen
        by: Identity = LOCAL,
    ) -> Issued:
        """A new key. `lifetime_us` None: it does not expire. Raises UnknownTenant."""
        created_us = now_us()
        expires_us = None if lifetime_us is None else created_us + lifetime_us

        def issue(connection: Connection) -> Issued:
            _check_tenant(connection, tenant)
            drawn = keytext.draw()
            key = Key(
                drawn.id, tenant, role, name, drawn.digest, created_us, by.actor, expires_us=expires_us, quota=quota
            )
            _insert_key(connection, key)
            note_key(connection, by, "create", key)
            return Issued(key, drawn.text)

        return self._write(issue)

    def revoke_key(self, key_id: str, *, by: Identity = LOCAL) -> Key:
        """Ends a key for good; one that has been revoked stays as it is. Raises UnknownKey."""

        def revoke(connection: Connection) -> Key:
            still = (keys.c.id == key_id) & keys.c.revoked_us.is_(None)
            is_news = connection.execute(keys.update().where(still).values(revoked_us=now_us())).rowcount
            key = _key(connection, key_id)
            if is_news:
                note_key(connection, by, "revoke", key)
            return key

        return self._write(revoke)

    def rotate_key(self, key_id: str, *, overlap_us: int, by: Identity = LOCAL) -> Issued:
        """A successor with the same rights; the old key goes on for `overlap_us`, then expires.

        A lifetime is passed on: the successor expires as long after its birth as the old key did. Raises UnknownKey,
        for a key that is no longer active too.
        """
        moment_us = now_us()

        def rotate(connection: Connection) -> Issued:
            old = _key(connection, key_id)
            if (state := old.state(moment_us)) != "active":
                raise UnknownKey(f"key {key_id} is {state} and can't be rotated: create a new one")
            drawn = keytext.draw()
            lifetime_us = None if old.expires_us is None else old.expires_us - old.created_us
            key = Key(
                drawn.id,
                old.tenant,
                old.role,
                old.name,
                drawn.digest,
                moment_us,
                by.actor,
                expires_us=None if lifetime_us is None else moment_us + lifetime_us,
                rotated_from=old.id,
                quota=old.quota,
            )
            _insert_key(connection, key)
            ends_us = min(moment_us + overlap_us, old.expires_us or moment_us + overlap_us)
            connection.execute(keys.update().where(keys.c.id == old.id).values(expires_us=ends_us))
            note_key(connection, by, "rotate", key, succeeds=old.id, old_expires_us=ends_us)
            return Issued(key, drawn.text)

        return self._write(rotate)

    def mark_used(self, moments_us: Mapping[str, int]) -> None:
        """Note when keys were last used; an earlier moment than the noted one changes nothing."""
        with translated(self._writing.url), self._writing.begin() as connection:
            for key_id, moment_us in moments_us.items():
                older = keys.c.last_used_us.is_(None) | (keys.c.last_used_us < moment_us)
                connection.execute(keys.update().where((keys.c.id == key_id) & older).values(last_used_us=moment_us))

    # -- tenants ------------------------------------------------------------------------------------------------------

    def create_tenant(self, tenant: Tenant, *, by: Identity = LOCAL) -> None:
        """A new tenant. Raises TenantExists."""

        def create(connection: Connection) -> None:
            if not insert_once(connection, tenants, _tenant_row(tenant) | {"created_us": now_us()}):
                raise TenantExists(f"there is a tenant {tenant.name} already: change it with `steer tenants set`")
            note_tenant(connection, by, "create", tenant)

        self._write(create)

    def set_tenant(self, tenant: Tenant, *, by: Identity = LOCAL) -> None:
        """Everything about a tenant anew. Raises UnknownTenant."""

        def change(connection: Connection) -> None:
            _check_tenant(connection, tenant.name)
            row = connection.execute(select(tenants).where(tenants.c.name == tenant.name)).mappings().one()
            note_tenant(connection, by, "set", tenant, before=Tenant.of(dict(row)))
            connection.execute(tenants.update().where(tenants.c.name == tenant.name).values(**_tenant_row(tenant)))

        self._write(change)

    def opted_out(self) -> frozenset[str]:
        """Tenants whose traffic must not be trained on."""
        with translated(self._reading.url), self._reading.connect() as connection:
            query = select(tenants.c.name).where(tenants.c.may_train.is_(False))
            return frozenset(connection.execute(query).scalars())

    def _write(self, change: Callable[[Connection], T]) -> T:
        with translated(self._writing.url), self._writing.begin() as connection:
            # First, so that two changes at once wait for each other here, whatever they touch.
            connection.execute(access_version.update().values(version=access_version.c.version + 1))
            return change(connection)


def _key(connection: Connection, key_id: str) -> Key:
    row = connection.execute(select(keys).where(keys.c.id == key_id)).mappings().first()
    if row is None:
        raise UnknownKey(f"no key has the id {key_id}: `steer keys list` shows all (an id is what follows sk-steer-)")
    return Key.of(dict(row))


def _insert_key(connection: Connection, key: Key) -> None:
    row = asdict(key)
    connection.execute(keys.insert().values(**row.pop("quota"), **row | {"role": key.role.value}))


def _check_tenant(connection: Connection, name: str) -> None:
    if name == DEFAULT_TENANT:  # there from the start; its row is made when one is needed
        insert_once(connection, tenants, _tenant_row(DEFAULT) | {"created_us": now_us()})
        return
    if connection.execute(select(tenants.c.name).where(tenants.c.name == name)).first() is None:
        raise UnknownTenant(f"there is no tenant {name}: make it with `steer tenants create {name}`")


def _tenant_row(tenant: Tenant) -> dict[str, Any]:
    """All columns but `created_us`, which does not change."""
    policy = json.dumps(tenant.policy, sort_keys=True, ensure_ascii=False)
    return {"name": tenant.name, "policy": policy, "may_train": tenant.may_train, **asdict(tenant.quota)}
