"""Errors of the pairs job.

PairsError             no snapshot can be made; the message names the file or rule, and the fix
└── PairsConfigError   a setting, an input file or an output folder does not fit
"""


class PairsError(Exception):
    """Anything that `train.pairs` raises on purpose."""


class PairsConfigError(PairsError):
    """A setting, input file or output folder is wrong."""
