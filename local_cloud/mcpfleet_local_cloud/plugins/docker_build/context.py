"""Hashes build contexts: equal for equal content, and different after any change that the build can read.

As in pulumi-docker-build's context.go: the Dockerfile's content, then each file that `.dockerignore` leaves in, by
path, mode and content. The value differs from the real plugin's; only its changes matter.
"""

import errno
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import ProviderError
from pulumi_mcpfleet.cloud_build.errors import BuildError
from pulumi_mcpfleet.cloud_build.ignore_files import DockerIgnore, walk
from pulumi_mcpfleet.cloud_build.source_files import open_file

_REMOTE: Final = re.compile(r"(https?|git|ssh)://|git@|github\.com/")
_CHUNK: Final = 1 << 20
_MAX_BYTES: Final = 4 << 20
"""The maximum number of bytes to read of a Dockerfile or ignore file."""


def is_remote(location: str) -> bool:
    """Whether a context or Dockerfile is a URL (moby's urlutil)."""
    return bool(_REMOTE.match(location))


def hash_context(context: str, dockerfile: str, inline: str = "") -> str:
    """Hash a local build context.

    Args:
        context: the folder, or a URL, whose content is not part of the hash.
        dockerfile: the Dockerfile's path, empty for an inline Dockerfile.
        inline: the inline Dockerfile's text.

    Raises:
        ProviderError: a file can't be read.
    """
    digest = hashlib.sha256()
    try:
        if inline:
            digest.update(inline.encode())
        elif dockerfile and not is_remote(dockerfile):
            digest.update(read_plain_file(Path(dockerfile), Path(context)))
        if not is_remote(context):
            root = Path(context)
            for name in list_files(root, dockerfile):
                _add_file(digest, root / name, name)
    except (BuildError, OSError, RuntimeError, ValueError) as error:  # an invalid pattern; a loop of symbolic links
        raise ProviderError(f"hashing build context: {error}") from error
    return digest.hexdigest()


def _add_file(digest: Any, path: Path, name: str) -> None:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        content = str(path.readlink()).encode()
    elif stat.S_ISREG(status.st_mode):
        content = None
    else:
        return
    digest.update(f"\0{name}\0{stat.filemode(status.st_mode)}\0{status.st_size}\0".encode())
    if content is not None:
        digest.update(content)
        return
    with open_file(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)


def read_plain_file(path: Path, context: Path) -> bytes:
    """Read a file that the docker command itself reads: a Dockerfile or an ignore file.

    As in BuildKit, a file in the context must not be a symbolic link out of it; the docker command would follow one.

    Raises:
        OSError: the file doesn't exist, or is a link out of the context, a pipe or a device.
    """
    target = path.resolve(strict=True)
    lexical = Path(os.path.normpath(path.absolute()))
    is_inside = lexical.is_relative_to(os.path.normpath(context.absolute()))
    if is_inside and not target.is_relative_to(context.resolve()):
        raise PermissionError(errno.EPERM, "a symbolic link that leads out of the context is not followed", str(path))
    with open_file(target) as file:
        return file.read(_MAX_BYTES)


def list_files(root: Path, dockerfile: str = "") -> list[str]:
    """List the files below *root* that Docker sends, as sorted relative paths."""
    ignore = DockerIgnore(_patterns(root, dockerfile))
    return sorted(walk(root, ignore.excludes_all_below, ignore.excludes))


def _patterns(root: Path, dockerfile: str) -> list[str]:
    """The lines of `<Dockerfile>.dockerignore`, or else of `.dockerignore`, in the same order as Docker."""
    candidates = [Path(f"{dockerfile}.dockerignore")] if dockerfile else []
    for path in (*candidates, root / ".dockerignore"):
        if os.path.lexists(path):
            return read_plain_file(path, root).decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines()
    return []
