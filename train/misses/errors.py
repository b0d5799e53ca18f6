"""Errors of the misses job.

MissesError             the traces can't be judged; the message names the file and the fix
└── MissesConfigError   a setting, an input file or an output folder does not fit
"""


class MissesError(Exception):
    """Anything that `train.misses` raises on purpose."""


class MissesConfigError(MissesError):
    """A setting, input file or output folder is wrong."""
