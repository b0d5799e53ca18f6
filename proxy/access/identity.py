"""Who a request or a command comes from. Decided once (`proxy.access.gate`, `proxy.access.command`), then passed on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from proxy.access.roles import Allowed, Role
from proxy.errors import RequestError

DEFAULT_TENANT = "default"

_IN_SCOPE = "steer.identity"


@dataclass(frozen=True, slots=True)
class Identity:
    """`key_id` None: no key was asked for. `name` is what the key's maker called it, for people."""

    tenant: str
    role: Role
    key_id: str | None = None
    name: str = ""

    @property
    def actor(self) -> str:
        """What an audit trail writes down: the key's id, which says nothing about its secret."""
        return f"key:{self.key_id}" if self.key_id is not None else "local"


# Where no keys are asked for: whoever reaches this machine's loopback may do everything; from elsewhere, ask the model.
LOCAL = Identity(DEFAULT_TENANT, Role.ADMIN)
UNKNOWN = Identity(DEFAULT_TENANT, Role.CLIENT)


def with_identity(scope: Mapping[str, Any], identity: Identity) -> dict[str, Any]:
    """The scope that the application behind the gate gets."""
    return {**scope, _IN_SCOPE: identity}


def identity_of(scope: Mapping[str, Any]) -> Identity:
    """Who sent this request (an ASGI scope, or `request.scope`). A KeyError means that no gate was passed: a bug."""
    identity = scope[_IN_SCOPE]
    assert isinstance(identity, Identity)
    return identity


def require(scope: Mapping[str, Any], allowed: Allowed) -> Identity:
    """The identity, where its role is allowed. The gate has asked by the route's row already; this is for finer rules.

    Raises RequestError 403.
    """
    identity = identity_of(scope)
    if allowed is not None and identity.role not in allowed:
        raise forbidden(identity.role, allowed)
    return identity


def forbidden(role: Role, allowed: frozenset[Role]) -> RequestError:
    """403, with the roles that would do."""
    wanted = " or ".join(sorted(allowed))
    return RequestError(403, f"this key's role is {role}; this needs {wanted}", code="forbidden")
