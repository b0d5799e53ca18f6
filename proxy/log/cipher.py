"""Encryption of text at rest: Fernet (AES-128-CBC with an HMAC) of the `cryptography` library, an optional extra.

Keys are a list: the first encrypts, all decrypt. To rotate, put a new key first, run `steer log rekey`, drop the old.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from proxy.log.errors import KeyUnusable, TextLocked

# A body that is JSON begins with a brace, so the two can't be mistaken for each other.
_MARK = "fernet:"


def is_sealed(body: str) -> bool:
    """Whether a body is encrypted."""
    return body.startswith(_MARK)


class Cipher:
    """Seals and opens bodies."""

    def __init__(self, keys: Sequence[str]) -> None:
        """Raises KeyUnusable."""
        if find_spec("cryptography") is None:
            raise KeyUnusable("log.encryption_key needs the library cryptography: install steer[encryption]")
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - optional

        try:
            self._ciphers: Any = MultiFernet([Fernet(key) for key in keys])
            self._first: Any = Fernet(keys[0])
        except (ValueError, IndexError) as error:
            raise KeyUnusable(
                "log.encryption_key: a key is 32 bytes in URL-safe base64; make one with `steer log new-key`"
            ) from error

    def seal(self, body: str) -> str:
        """Encrypt."""
        return _MARK + str(self._ciphers.encrypt(body.encode()).decode())

    def open(self, body: str) -> str:
        """Decrypt. Raises TextLocked."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - optional

        try:
            return str(self._ciphers.decrypt(body.removeprefix(_MARK).encode()).decode())
        except InvalidToken:
            raise TextLocked(
                "text of the intervention log is encrypted with a key that log.encryption_key does not hold, or was "
                "changed since: add the key that it was written with"
            ) from None

    def is_current(self, body: str) -> bool:
        """Whether a body was encrypted with the first key."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - optional

        if not is_sealed(body):
            return False
        try:
            self._first.decrypt(body.removeprefix(_MARK).encode())
        except InvalidToken:
            return False
        return True


def new_key() -> str:
    """A fresh key. Raises KeyUnusable where the library is missing."""
    if find_spec("cryptography") is None:
        raise KeyUnusable("encryption needs the library cryptography: install steer[encryption]")
    from cryptography.fernet import Fernet  # noqa: PLC0415 - optional

    return Fernet.generate_key().decode()


def read_keys(given: str | None, file: Path | None) -> list[str]:
    """Keys of a comma-separated setting, then of a file with one a line. Raises KeyUnusable."""
    keys = [key.strip() for key in (given or "").split(",")]
    if file is not None:
        try:
            keys += [line.strip() for line in file.read_text(encoding="ascii").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise KeyUnusable(f"log.encryption_key_file {file} can't be read as a list of keys") from error
    return [key for key in keys if key and not key.startswith("#")]
