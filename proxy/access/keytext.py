"""What a key looks like, and how one is checked. Pure: no database, no clock.

`sk-steer-<id>-<secret>`: the id (no secret) finds the row; the secret is 256 random bits. What is kept is the SHA-256
of the whole key. A slow hash (bcrypt, Argon2) protects what people think up; 256 random bits can't be tried out however
fast the hash is, and a slow one would let anybody keep the proxy busy with made-up keys.
"""

import hashlib
import secrets
from typing import NamedTuple

PREFIX = "sk-steer-"

_ID_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look alike: ids are read aloud and typed
_ID_CHARS = 12
_SECRET_BYTES = 32
# Nothing longer is looked at: what is hashed has a bound.
_MAX_KEY_CHARS = 128
# Compared with where there is no row, so that an unknown id takes as long as a known one.
_NOBODYS_DIGEST = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).hexdigest()


class NewKey(NamedTuple):
    """A key that was just drawn: `text` is shown once, `digest` is kept."""

    id: str
    text: str
    digest: str


def draw() -> NewKey:
    """A key that nobody has."""
    key_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(_ID_CHARS))
    text = f"{PREFIX}{key_id}-{secrets.token_urlsafe(_SECRET_BYTES)}"
    return NewKey(key_id, text, digest_of(text))


def digest_of(text: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(text.encode()).hexdigest()


def id_of(text: str) -> str | None:
    """The id inside a key; None where the text has not a key's form."""
    if not text.startswith(PREFIX) or len(text) > _MAX_KEY_CHARS or not text.isascii():
        return None
    key_id, dash, secret = text.removeprefix(PREFIX).partition("-")
    return key_id if dash and secret and key_id.isalnum() else None


def looks_like_ours(text: str) -> bool:
    """Whether it was meant to be a key of ours."""
    return text.startswith(PREFIX)


def is_same(text: str, digest: str | None) -> bool:
    """Whether the key has this digest, in the same time whatever the answer. None: there is no such key."""
    return secrets.compare_digest(digest_of(text), digest or _NOBODYS_DIGEST) and digest is not None
