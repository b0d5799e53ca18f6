"""Errors of the embedded server: EmbeddedError -> ModelFilesError | BadRequest | EngineFailed."""


class EmbeddedError(Exception):
    """The embedded server cannot do what was asked."""


class ModelFilesError(EmbeddedError):
    """The model folder lacks a file or holds a malformed one; the message names it."""


class BadRequest(EmbeddedError):
    """The client's request does not fit; answered with status 400 in the engine's error shape."""


class EngineFailed(EmbeddedError):
    """A step of the network failed; the sequences that were running are lost, the engine goes on."""
