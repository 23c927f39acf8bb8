"""Keeps values that must not lie in the store in clear: encrypted with a key of mode 0600 beside it.

Whoever can read the whole state can read them; whoever gets hold of the database alone (a copy, a log, an inventory)
cannot.
"""

from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from mcpfleet_local_cloud.state.files import write_private

_FILE: Final = "secrets.key"


class Vault:
    """Seals and opens short values; *keys_dir* holds the key, which is made at first use."""

    def __init__(self, keys_dir: Path) -> None:
        path = keys_dir / _FILE
        if not path.exists():
            write_private(path, Fernet.generate_key().decode() + "\n")
        self._key = Fernet(path.read_text().strip())

    def seal(self, value: bytes) -> str:
        """*value*, encrypted and authenticated, as text."""
        return self._key.encrypt(value).decode()

    def open(self, sealed: str) -> bytes:
        """What `seal` was given."""
        return self._key.decrypt(sealed.encode())
