"""Reads files of an untrusted source: only plain files inside its folder."""

import os
import stat
from pathlib import Path
from typing import IO, Final

from pulumi_mcpfleet.cloud_build.errors import BuildError

_MAX_BYTES: Final = 2 * 2**20
"""The number of bytes of an ignore file that are read."""


def is_own_file(root: Path, name: str) -> bool:
    """Whether *root* has a plain file with this path.

    Raises:
        BuildError: It is a link that leads out of *root* or nowhere, a pipe or a device.
    """
    path = root / name
    try:
        resolved = path.resolve(strict=True)
        is_inside = resolved.is_relative_to(root.resolve()) and (resolved.is_file() or resolved.is_dir())
    except FileNotFoundError:
        is_inside = not path.is_symlink()  # a missing file is fine
    except (OSError, RuntimeError, ValueError):  # a loop of links
        is_inside = False
    if not is_inside:
        raise BuildError(
            f"{name} in {root} is not a plain file of the source (it is a symbolic link that leads out of the source or"
            " nowhere, a pipe or a device); replace it with the file itself"
        )
    return path.is_file()


def read_lines(root: Path, name: str) -> list[str]:
    """Return the lines of an ignore file that has passed `is_own_file`."""
    with open_file((root / name).resolve()) as file:
        text = file.read(_MAX_BYTES).decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff").splitlines()


def open_file(path: Path) -> IO[bytes]:
    """Open a plain file for reading. Refuses a link or a pipe that has replaced it since it was checked.

    Raises:
        OSError: It is not a plain file, or can't be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is no plain file")
    return os.fdopen(handle, "rb")
