"""What the audit trail keeps of changes to keys and tenants: written in the transaction of the change, without secrets.

Wordings that a tenant sets (its refusal, its triggers) are named, not repeated: the trail holds no text.
"""

from dataclasses import asdict

from sqlalchemy import Connection

from proxy.access.identity import Identity
from proxy.access.model import Key, Tenant
from proxy.review.audit import Actor, Values, write_entry


def note_key(connection: Connection, by: Identity, action: str, key: Key, **more: str | int | None) -> None:
    """`key.create`, `key.revoke` or `key.rotate`."""
    after = {"role": key.role.value, "expires_us": key.expires_us, "revoked_us": key.revoked_us, **asdict(key.quota)}
    write_entry(connection, _actor(by), f"key.{action}", key.id, tenant=key.tenant, after=after | more)


def note_tenant(
    connection: Connection, by: Identity, action: str, tenant: Tenant, before: Tenant | None = None
) -> None:
    """`tenant.create` or `tenant.set`."""
    write_entry(
        connection,
        _actor(by),
        f"tenant.{action}",
        tenant.name,
        tenant=tenant.name,
        before=None if before is None else _values(before),
        after=_values(tenant),
    )


def _actor(by: Identity) -> Actor:
    return Actor(by.actor, by.role.value)


def _values(tenant: Tenant) -> Values:
    worded = {"refusal", "triggers"}
    policy = {f"policy.{name}": "its own" if name in worded else value for name, value in tenant.policy.items()}
    return {"may_train": tenant.may_train, **asdict(tenant.quota), **policy}
