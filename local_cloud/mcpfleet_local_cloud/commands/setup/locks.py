"""Locks between the setups of several clones, and files that appear whole or not at all.

By `flock` itself and not by filelock: the kernel wakes who waits, where that looks again every 50 ms; and who waits is
told once (`waiting`).
"""

import fcntl
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def cache_lock(cache: Path, name: str, waiting: Callable[[], None]) -> Generator[None]:
    """Hold a lock of the user's cache; the kernel releases it if we are killed.

    Args:
        cache: The cache's root.
        name: What the lock protects.
        waiting: Called once if someone else holds it.
    """
    folder = cache / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def lock_or_refuse(file: Path, refusal: Exception) -> Generator[None]:
    """Hold a lock file, or raise *refusal* at once where somebody else does; a killed holder's lock is free."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise refusal from None
        yield


@contextmanager
def scratch_folder(parent: Path, name: str) -> Generator[Path]:
    """Give an empty folder beside its destination, so that what is made in it can be renamed into place.

    Called under a lock: what a killed run left under the same name is removed first.
    """
    folder = parent / f".{name}.unfinished"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def replace(made: Path, destination: Path) -> None:
    """Put what was made into its place, over what is there."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.is_dir():
        shutil.rmtree(destination)
    made.replace(destination)
