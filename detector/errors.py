"""Errors of `detector`.

DetectorError        the detector could not give a score: its classifier failed, or its queue is closed
├── Overloaded       the queue is full; nothing was judged, and the policy's `on_failure` answers
├── ArtifactError    an artifact folder that must not be used: missing, altered, truncated, or of another format
└── InputError       a line of a file for `detect_file` that is not what the format says
"""


class DetectorError(Exception):
    """Anything that `detector` raises on purpose. The message says what to do."""


class Overloaded(DetectorError):
    """More segments wait for a verdict than the queue may hold."""


class ArtifactError(DetectorError):
    """The artifact can't be used; names the file and the fix."""


class InputError(DetectorError):
    """Bad input line; names the file, the line and the field."""
