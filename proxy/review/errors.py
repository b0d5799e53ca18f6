"""Errors of review: what is asked can't be done. Database failures stay `proxy.log.errors.LogError`.

ReviewError
├── UnknownSubject    nothing reviewable has this id
├── StaleVersion      somebody else has said something since: look again, then decide
├── WrongDecision     this can't be decided of that
└── BadInput          a question or a file that can't be: a limit, a cursor, a line
"""


class ReviewError(Exception):
    """Anything that `proxy.review` raises on purpose. The message says what to do, and quotes no user text."""


class UnknownSubject(ReviewError):
    """No intervention, sample or proposal has this id."""


class StaleVersion(ReviewError):
    """The subject has changed since it was looked at. `version` is today's."""

    def __init__(self, subject_id: str, version: int) -> None:
        super().__init__(f"{subject_id} has changed since you looked (now version {version}): look again, then decide")
        self.version = version


class WrongDecision(ReviewError):
    """A decision that does not fit its subject, or its author."""


class BadInput(ReviewError):
    """A question or a file that can't be. The message names the field, or the line."""
