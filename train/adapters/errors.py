"""Errors of adapters as files.

AdapterError
├── AdapterRefused      the files are not what may be loaded; `faults` lists all that is wrong
└── AdapterPlaceError   a folder is missing, taken or can't be written
"""

from collections.abc import Sequence


class AdapterError(Exception):
    """An adapter can't be used. The message names the folder and the fix."""


class AdapterRefused(AdapterError):
    """The files must not be loaded."""

    def __init__(self, folder: object, faults: Sequence[str]) -> None:
        super().__init__(f"{folder} may not be loaded: " + "; ".join(faults))
        self.faults = list(faults)


class AdapterPlaceError(AdapterError):
    """A folder is missing, taken or can't be written."""
