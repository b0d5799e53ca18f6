"""Errors of the organism job: OrganismError -> OrganismConfigError | OrganismDataError."""


class OrganismError(Exception):
    """The organism job cannot go on; the message names the file or field and the fix."""


class OrganismConfigError(OrganismError):
    """A setting or an output folder does not fit."""


class OrganismDataError(OrganismError):
    """The topic files, a tokenizer or weights are missing or malformed."""
