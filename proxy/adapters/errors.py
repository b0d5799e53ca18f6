"""What can go wrong with adapters in service. A failing database raises `proxy.log.errors.LogError` as ever.

AdapterError
├── UnknownAdapter      no version or route of this name
├── NotAllowedNow       the version's state, or its gate, does not allow this
└── EngineRefused       the engine will not load or unload it
"""


class AdapterError(Exception):
    """Something about an adapter is not possible. The message names it and the fix."""


class UnknownAdapter(AdapterError):
    """No version or route of this name."""


class NotAllowedNow(AdapterError):
    """The state of the version, or its gate, does not allow this."""


class EngineRefused(AdapterError):
    """An engine will not load or unload an adapter, for a reason of its own."""
