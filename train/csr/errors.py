"""Errors of the CSR job.

CsrError             the job cannot go on; the message names the file, field or server, and the fix
└── CsrConfigError   a setting, a prompt set or an output folder does not fit
"""


class CsrError(Exception):
    """Anything that `train.csr` raises on purpose."""


class CsrConfigError(CsrError):
    """A setting, prompt set or output folder is wrong."""
