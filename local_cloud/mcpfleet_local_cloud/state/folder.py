"""The directory that is one local cloud: who it is, its admin's token, its lock, and files that nobody else reads."""

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

_RUNNING: Final = "cloud.json"
_SEAL: Final = "secrets.key"


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
    """In Docker; the cloud's own helper containers are made from it."""

    @property
    def url(self) -> str:
        """The control plane's base URL, without a slash at its end."""
        return f"http://{self.host}:{self.port}"


class StateLockedError(Exception):
    """Another process serves this state; the text says which, *next_step* what to do."""

    next_step: Final = "use that one, or end it, or give another --state."


class State:
    """The files of *folder* that are nobody else's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.cloud_id: Final = _kept(folder / "id", lambda: secrets.token_hex(6))
        """Names this cloud in Docker's labels; the same for as long as the directory lives, also after a reset."""
        self.admin_token: Final = _kept(folder / "admin-token", lambda: secrets.token_urlsafe(32))

    @contextmanager
    def locked(self) -> Generator[None]:
        """Hold the state for this process. The kernel lets go of it when the process ends, however it ends.

        Raises:
            StateLockedError: another process holds it.
        """
        handle = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StateLockedError(self._holder()) from None
            yield
        finally:
            os.close(handle)

    def announce(self, settings: Settings, started: str) -> None:
        """Write `cloud.json`, by which others find the process."""
        running: Document = {
            "pid": os.getpid(),
            "port": settings.port,
            "url": settings.url,
            "id": self.cloud_id,
            "started": started,
        }
        write_private(self._folder / _RUNNING, json.dumps(running, indent=2) + "\n")

    def withdraw(self) -> None:
        """Remove `cloud.json`."""
        (self._folder / _RUNNING).unlink(missing_ok=True)

    def _holder(self) -> str:
        try:
            running: Document = json.loads((self._folder / _RUNNING).read_text())
            who = f"process {running['pid']} at {running['url']}"
        except (OSError, ValueError, KeyError):
            who = "another process, which is just starting or stopping"
        return f"The local cloud in {self._folder} is being served already, by {who}."


def _kept(path: Path, make: Callable[[], str]) -> str:
    """The word in *path*, made at first use."""
    if not path.exists():
        write_private(path, make() + "\n")
    return path.read_text().strip()


def write_private(path: Path, content: str) -> None:
    """Write *content* with mode 0600, whole or not at all, however the process ends."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # mkstemp makes the file 0600, so nobody can read it even for a moment.
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
    """Keeps values that must not lie in the store in clear: encrypted with a key of mode 0600 beside it.

    Whoever can read the whole state can read them; whoever gets hold of the database alone (a copy, a log, an
    inventory) cannot. *keys_dir* holds the key, which is made at first use.
    """

    def __init__(self, keys_dir: Path) -> None:
        path = keys_dir / _SEAL
        if not path.exists():
            write_private(path, Fernet.generate_key().decode() + "\n")
        self._key = Fernet(path.read_text().strip())

    def seal(self, value: bytes) -> str:
        """*value*, encrypted and authenticated, as text."""
        return self._key.encrypt(value).decode()

    def open(self, sealed: str) -> bytes:
        """What `seal` was given."""
        return self._key.decrypt(sealed.encode())
