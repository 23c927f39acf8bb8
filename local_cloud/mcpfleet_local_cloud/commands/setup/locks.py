"""Locks between the setups of several clones, and folders that are replaced as a whole.

They use `flock` directly, not the package filelock: the kernel wakes the waiting process, while filelock polls every
50 ms; and the waiting process can show that it waits (`on_wait`).
"""

import fcntl
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cache_lock(cache: Path, name: str, on_wait: Callable[[], None]) -> Generator[None]:
    """Hold a lock in a cache folder; the kernel releases it if this process is killed.

    Args:
        cache: The cache's root.
        name: The lock's name, after the thing that it protects.
        on_wait: Called once if another process has the lock.
    """
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_or_refuse(file: Path, error: Exception) -> Generator[None]:
    """Hold a lock file, or raise *error* at once if another process has it; a killed process's lock is released."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise error from None
        yield


@contextmanager
def scratch_folder(parent: Path, name: str) -> Generator[Path]:
    """Create a temporary folder in *parent*, whose content can be renamed to its destination there.

    Call it with a lock held: a killed run's folder of the same name is removed first.
    """
    folder = parent / f".{name}.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace(source: Path, destination: Path) -> None:
    """Move *source* to *destination*, and replace what is there."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.is_dir():
        shutil.rmtree(destination)
    source.replace(destination)
