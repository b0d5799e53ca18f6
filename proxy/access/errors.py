"""What can go wrong with keys and tenants, as commands meet it. Requests get `proxy.errors.RequestError` instead.

AccessError
├── UnknownKey      no key has this id
├── UnknownTenant   no tenant has this name
├── TenantExists    the name is taken
├── WrongTenant     a name or a policy that can't be used
└── CommandDenied   the command needs a key, or one of another role
"""


class AccessError(Exception):
    """Keys or tenants can't be used as asked. The message says what to do, and holds no key."""


class UnknownKey(AccessError):
    """No key has this id."""


class UnknownTenant(AccessError):
    """No tenant has this name."""


class TenantExists(AccessError):
    """The name is taken."""


class WrongTenant(AccessError):
    """A tenant's name or policy can't be used."""


class CommandDenied(AccessError):
    """A command that the caller may not run."""
