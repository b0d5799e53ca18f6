"""Errors of adaptive triggers.

TriggerError
├── BadTrigger      a wording that may not be proposed; the message says what is wrong with it
├── UnknownTrigger  no trigger (or table) of this name
└── WrongState      what was asked for is not possible in the trigger's state
"""


class TriggerError(Exception):
    """Anything that `proxy.triggers` raises on purpose."""


class BadTrigger(TriggerError):
    """The wording, its id or its file is wrong."""


class UnknownTrigger(TriggerError):
    """There is none."""


class WrongState(TriggerError):
    """Not now."""
