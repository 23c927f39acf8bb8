"""Sealed values: JSON that only this program can read and write, for one purpose, one resource and a limited time.

Fernet encrypts and authenticates (https://github.com/fernet/spec). Each purpose and resource has keys of its own,
derived from the stack's keys, so a value that was sealed for anything else can't be opened.
"""

import base64
import binascii
import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Purpose = Literal["access", "client", "code", "consent", "family", "login", "refresh", "request"]
"""What a value is sealed for: an access token, a registered client's ID, an authorization code, the form of the consent
page, the record of a login, a login in progress, a refresh token, an authorization request."""

KEY_BYTES: Final = 32

_MAX_SEALED_CHARACTERS: Final = 16 * 1024


class SealError(Exception):
    """The value is too old, was changed, or was not sealed for this purpose and resource."""


def parse_key(text: str) -> bytes:
    """Return the key that *text* has in base64.

    Raises:
        ValueError: It is not base64, or not of 32 bytes.
    """
    try:
        key = base64.b64decode(text, altchars=b"-_" if {"-", "_"} & set(text) else None, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ValueError("give 32 random bytes in base64; for example, run openssl rand -base64 32")
    return key


class Sealer:
    """Seals and opens values.

    Args:
        keys: The stack's keys of 32 bytes, newest first. The first one seals, all of them open.
        resource: The URL of the MCP endpoint.
        clock: Seconds since the epoch.
    """

    def __init__(self, keys: Sequence[bytes], resource: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = tuple(keys)
        self._resource = resource
        self._clock = clock
        self._fernets: dict[Purpose, MultiFernet] = {}

    def seal(self, purpose: Purpose, value: Mapping[str, Any]) -> str:
        """Return *value* sealed, as text that URLs and headers may contain."""
        data = json.dumps(value, separators=(",", ":")).encode()
        # Without the padding: `=` needs escapes in a form, and cookies may not contain it everywhere.
        return self._fernet(purpose).encrypt_at_time(data, int(self._clock())).decode().rstrip("=")

    def open(self, purpose: Purpose, sealed: str, max_age: int | None) -> dict[str, Any]:
        """Return the value that was sealed.

        Args:
            purpose: What it was sealed for.
            sealed: The text.
            max_age: Its life in seconds; None if it does not end.

        Raises:
            SealError: The value can't be opened.
        """
        if len(sealed) > _MAX_SEALED_CHARACTERS or not sealed.isascii() or "=" in sealed:
            raise SealError("not sealed by this server")
        token = (sealed + "=" * (-len(sealed) % 4)).encode()
        try:
            fernet = self._fernet(purpose)
            if max_age is None:
                data = fernet.decrypt(token)
            else:
                data = fernet.decrypt_at_time(token, max_age, int(self._clock()))
            return cast("dict[str, Any]", json.loads(data))
        except (InvalidToken, ValueError) as error:
            raise SealError("not sealed by this server for this purpose, or too old") from error

    def _fernet(self, purpose: Purpose) -> MultiFernet:
        fernet = self._fernets.get(purpose)
        if fernet is None:
            context = f"mcpfleet-login {purpose} {self._resource}".encode()
            derived = (HKDF(SHA256(), KEY_BYTES, salt=None, info=context).derive(key) for key in self._keys)
            fernet = MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])
            self._fernets[purpose] = fernet
        return fernet
