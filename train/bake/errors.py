"""Errors of the bake.

BakeError
├── BakeConfigError     the config, or the folder, does not fit (exit 2)
└── BakeBusy            another bake of the same name runs
"""


class BakeError(Exception):
    """A bake can't go on. The message names the stage and the fix."""


class BakeConfigError(BakeError):
    """The config, or the output folder, does not fit."""


class BakeBusy(BakeError):
    """Another bake of the same name runs."""
