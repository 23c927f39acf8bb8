"""A folder that somebody else has filled: what is read of it lies inside it, is a plain file, and is bounded.

A repository may hold symbolic links to anywhere on the machine of whoever deploys it. So every path is resolved before
it is used, and what leads out is refused; nothing here writes.
"""

import os
import stat
from pathlib import Path

from pulumi_mcpfleet.sources.build_plan import BuildPlanError


def resolved(root: Path, name: str) -> Path | None:
    """Where *name* below *root* really is; None where that is outside of it, or nowhere."""
    try:
        border = root.resolve(strict=True)
        found = (border / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # not there; a loop of links; a name that no file can have
        return None
    return found if found.is_relative_to(border) else None


def folder_in(root: Path, name: str, key: str, what: str) -> Path:
    """The folder *name* below *root*, all links followed.

    Args:
        root: What the source is.
        name: A path within it.
        key: The key of the source that says so.
        what: The source in words.

    Raises:
        BuildPlanError: It is not there, or leads out of the source.
    """
    found = resolved(root, name)
    if found is None and os.path.lexists(root / name):
        raise BuildPlanError.of(key, f"{name} leads out of {what} by a symbolic link, which is never followed")
    if found is None or not found.is_dir():
        raise BuildPlanError.of(key, f"there is no {name} in {what}; correct it")
    return found


def is_file_in(root: Path, name: str) -> bool:
    """Whether *name* below *root* is a plain file, or a link to one that is inside as well."""
    found = resolved(root, name)
    return found is not None and stat.S_ISREG(found.lstat().st_mode)


def read_in(root: Path, name: str, limit: int) -> bytes:
    """The first *limit* bytes of a plain file below *root*.

    Raises:
        BuildPlanError: It leads out, or is no plain file: reading a pipe would never end.
        OSError: It can't be read.
    """
    found = resolved(root, name)
    if found is None:
        raise BuildPlanError.of("", odd(name))
    # What was checked is what is opened: neither a link nor a pipe that took its place since then.
    handle = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BuildPlanError.of("", odd(name))
        return file.read(limit)


def odd(name: str) -> str:
    """What is said of a file that is none of the source's own."""
    return (
        f"{name} is no file of the source's own (a symbolic link that leads out of it or nowhere, a pipe or a device);"
        " put the file itself there"
    )


def own_folder(root: Path, name: str) -> str | None:
    """Why the folder *name*, as seen from *root*, can't be taken: a link below *root* leads away from where it says.

    A folder beside *root* is taken where its path says so itself (`../weather`).
    """
    border = root.resolve()
    written = Path(os.path.normpath(border / name))
    found = (root / name).resolve()
    if found == written or found.is_relative_to(border):
        return None
    return f"{name} is a symbolic link that leads to {found}; write that folder itself, as seen from Pulumi.yaml"
