"""Reads files of an untrusted folder: only plain files inside it, with a size limit.

A repository can have symbolic links to any path on the deployer's machine. So every path is resolved before it is used,
and a path that leads out of the folder is refused. Nothing here writes.
"""

import os
import stat
from pathlib import Path

from pulumi_mcpfleet.sources.build_plan import BuildPlanError


def resolve_inside(root: Path, name: str) -> Path | None:
    """Return the path of *name* below *root* with all links resolved; None if it is outside of *root* or missing."""
    try:
        resolved_root = root.resolve(strict=True)
        resolved = (resolved_root / name).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing; a loop of links; a name that no file can have
        return None
    return resolved if resolved.is_relative_to(resolved_root) else None


def find_folder(root: Path, name: str, key: str, source: str) -> Path:
    """Return the path of the folder *name* below *root* with all links resolved.

    Args:
        root: The source.
        name: A path within it.
        key: The key of the source that names the folder.
        source: A description of the source, for messages.

    Raises:
        BuildPlanError: There is no such folder, or it leads out of the source.
    """
    folder = resolve_inside(root, name)
    if folder is None and os.path.lexists(root / name):
        raise BuildPlanError.of(key, f"{name} leads out of {source} by a symbolic link, which is never followed")
    if folder is None or not folder.is_dir():
        raise BuildPlanError.of(key, f"there is no {name} in {source}; correct it")
    return folder


def is_file_in(root: Path, name: str) -> bool:
    """Whether *name* below *root* is a plain file, or a link to one inside *root*."""
    path = resolve_inside(root, name)
    return path is not None and stat.S_ISREG(path.lstat().st_mode)


def read_file_in(root: Path, name: str, limit: int) -> bytes:
    """Return the first *limit* bytes of a plain file below *root*.

    Raises:
        BuildPlanError: The path leads out of *root*, or is not a plain file. Reading a pipe would never end.
        OSError: The file can't be read.
    """
    path = resolve_inside(root, name)
    if path is None:
        raise BuildPlanError.of("", unsafe_file_message(name))
    # These flags refuse a link or a pipe that has replaced the file since the check.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BuildPlanError.of("", unsafe_file_message(name))
        return file.read(limit)


def unsafe_file_message(name: str) -> str:
    """Return the message about a file that is not a plain file within the source."""
    return (
        f"{name} is not a plain file of the source (it is a symbolic link that leads out of the source or nowhere, a"
        " pipe or a device); replace it with the file itself"
    )


def folder_problem(root: Path, name: str) -> str | None:
    """Return the reason why the folder *name*, relative to *root*, is refused: a link leads out of *root*. Else None.

    A folder outside of *root* is accepted if its path says so itself (`../weather`).
    """
    resolved_root = root.resolve()
    expected = Path(os.path.normpath(resolved_root / name))
    resolved = (root / name).resolve()
    if resolved == expected or resolved.is_relative_to(resolved_root):
        return None
    return f"{name} is a symbolic link that leads to {resolved}; write that folder itself, as seen from Pulumi.yaml"
