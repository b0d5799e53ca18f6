"""Keys and tenants as the rest of the proxy sees them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from proxy.access.identity import DEFAULT_TENANT, Identity
from proxy.access.roles import Role


@dataclass(frozen=True, slots=True)
class Quota:
    """Limits of a key or a tenant. None: no limit of its own."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrent: int | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Quota":
        """From a row that has these columns."""
        return cls(**{item.name: row[item.name] for item in fields(cls)})

    def over(self, other: "Quota") -> "Quota":
        """These limits, and the other's where there is none."""
        return Quota(
            self.requests_per_minute if self.requests_per_minute is not None else other.requests_per_minute,
            self.tokens_per_minute if self.tokens_per_minute is not None else other.tokens_per_minute,
            self.max_concurrent if self.max_concurrent is not None else other.max_concurrent,
        )


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose traffic it is. `policy` holds overrides of the settings' policy section, by name."""

    name: str
    policy: Mapping[str, Any] = field(default_factory=dict)
    may_train: bool = True
    quota: Quota = Quota()
    created_us: int = 0

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Tenant":
        """From its row."""
        return cls(row["name"], json.loads(row["policy"]), row["may_train"], Quota.of(row), row["created_us"])


# There from the start, without a row: who calls without a key, and who has one of no other tenant.
DEFAULT = Tenant(DEFAULT_TENANT)


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without its secret. `expires_us` None: never; `revoked_us` None: it is not."""

    id: str
    tenant: str
    role: Role
    name: str
    digest: str = field(repr=False)
    created_us: int
    created_by: str
    expires_us: int | None = None
    revoked_us: int | None = None
    last_used_us: int | None = None
    rotated_from: str | None = None
    quota: Quota = Quota()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Key":
        """From its row."""
        plain = {item.name: row[item.name] for item in fields(cls) if item.name not in ("role", "quota")}
        return cls(**plain, role=Role(row["role"]), quota=Quota.of(row))

    def state(self, now_us: int) -> str:
        """`active`, `expired` or `revoked`."""
        if self.revoked_us is not None:
            return "revoked"
        return "expired" if self.expires_us is not None and self.expires_us <= now_us else "active"

    @property
    def identity(self) -> Identity:
        """Who shows this key."""
        return Identity(self.tenant, self.role, self.id, self.name)
