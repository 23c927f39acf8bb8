"""Files of a source, which somebody else has filled: only what lies inside it is read, and only plain files."""

import os
import stat
from pathlib import Path
from typing import IO, Final

from pulumi_mcpfleet.cloud_build.errors import BuildError

_LARGEST: Final = 2 * 2**20
"""Bytes of an ignore file that are read."""


def is_there(root: Path, name: str) -> bool:
    """Whether *root* holds a file of that name.

    Raises:
        BuildError: It is a link that leads out of *root* or nowhere, a pipe or a device, none of which is read.
    """
    place = root / name
    try:
        found = place.resolve(strict=True)
        ours = found.is_relative_to(root.resolve()) and (found.is_file() or found.is_dir())
    except FileNotFoundError:
        ours = not place.is_symlink()  # it is just not there
    except (OSError, RuntimeError, ValueError):  # a ring of links
        ours = False
    if not ours:
        raise BuildError(
            f"{name} in {root} is no file of the source's own (a symbolic link that leads out of it or nowhere, a pipe"
            " or a device); put the file itself there"
        )
    return place.is_file()


def lines(root: Path, name: str) -> list[str]:
    """The lines of an ignore file, which `is_there`."""
    with opened((root / name).resolve()) as file:
        text = file.read(_LARGEST).decode("utf-8", "surrogateescape")
    return text.removeprefix("\ufeff").splitlines()


def opened(path: Path) -> IO[bytes]:
    """A plain file, to be read. What took its place meanwhile, a link or a pipe, is refused.

    Raises:
        OSError: It is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is no plain file")
    return os.fdopen(handle, "rb")
