"""The state directory of one local cloud: its id, its admin token, its lock, and private files."""

import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet

from mcpfleet_local_cloud.state.store import Document

_PROCESS_FILE: Final = "cloud.json"
_KEY_FILE: Final = "secrets.key"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The coordinates of one local cloud; every path below *state* belongs to it alone."""

    state: Path
    host: str = "127.0.0.1"
    port: int = 8470
    project: str = "mcpfleet-local"
    project_number: int = 481516234200
    universe: str = "mcpfleet.test"
    base_image: str = "mcpfleet/base:python3.13"
    """The Docker image of the cloud's own helper containers."""

    @property
    def url(self) -> str:
        """The control plane's base URL, without a slash at its end."""
        return f"http://{self.host}:{self.port}"


class StateLockedError(Exception):
    """Another process serves this state: the message names it, and *next_step* tells the user what to do."""

    next_step: Final = "use that cloud, stop it, or choose another --state."


class State:
    """The private files in *folder*, the state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cloud_id: Final = _read_or_create(folder / "id", lambda: secrets.token_hex(6))
        """The id of this cloud in Docker's labels; it stays the same while the directory exists, also after a reset."""
        self.admin_token: Final = _read_or_create(folder / "admin-token", lambda: secrets.token_urlsafe(32))

    @contextmanager
    def lock(self) -> Generator[None]:
        """Lock the state for this process. The kernel releases the lock when the process ends, however it ends.

        Raises:
            StateLockedError: another process has the lock.
        """
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateLockedError(self._describe_holder()) from None
            yield
        finally:
            os.close(handle)

    def announce(self, settings: Settings, started: str) -> None:
        """Write `cloud.json`, by which other programs find this process."""
        running: Document = {
            "pid": os.getpid(),
            "port": settings.port,
            "url": settings.url,
            "id": self.cloud_id,
            "started": started,
        }
        write_private(self._folder / _PROCESS_FILE, json.dumps(running, indent=2) + "\n")

    def withdraw(self) -> None:
        """Remove `cloud.json`."""
        (self._folder / _PROCESS_FILE).unlink(missing_ok=True)

    def _describe_holder(self) -> str:
        try:
            running: Document = json.loads((self._folder / _PROCESS_FILE).read_text())
            holder = f"process {running['pid']} at {running['url']}"
        except (OSError, ValueError, KeyError):
            holder = "another process, which is starting or stopping"
        return f"The local cloud in {self._folder} is already served by {holder}."


def _read_or_create(path: Path, create: Callable[[], str]) -> str:
    """Read the text in *path*; write it first with *create* if the file does not exist."""
    if not path.exists():
        write_private(path, create() + "\n")
    return path.read_text().strip()


def write_private(path: Path, content: str) -> None:
    """Write *content* with mode 0600. The write is atomic, however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp creates the file with mode 0600, so that no other user can ever read it.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Vault:
    """Encrypts values that the store must not contain in clear text, with a key in a separate file of mode 0600.

    Anyone who can read the whole state can decrypt them; anyone who has only the database (a copy, a log, an inventory)
    cannot. The key is in *keys_dir* and is created at first use.
    """

    def __init__(self, keys_dir: Path) -> None:
        path = keys_dir / _KEY_FILE
        if not path.exists():
            write_private(path, Fernet.generate_key().decode() + "\n")
        self._key = Fernet(path.read_text().strip())

    def encrypt(self, value: bytes) -> str:
        """Encrypt and authenticate *value*; return it as text."""
        return self._key.encrypt(value).decode()

    def decrypt(self, sealed: str) -> bytes:
        """Decrypt a text that `encrypt` returned."""
        return self._key.decrypt(sealed.encode())
