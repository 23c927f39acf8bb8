"""The hash of a build context: equal for equal content, different after any edit that the build can see.

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
from pulumi_mcpfleet.cloud_build.ignored import DockerIgnore, walk
from pulumi_mcpfleet.cloud_build.reading import opened

_REMOTE: Final = re.compile(r"(https?|git|ssh)://|git@|github\.com/")
_CHUNK: Final = 1 << 20
_LARGEST: Final = 4 << 20
"""Bytes of a Dockerfile or an ignore file that are read."""


def is_remote(location: str) -> bool:
    """Whether a context or Dockerfile is a URL (moby's urlutil)."""
    return bool(_REMOTE.match(location))


def context_hash(context: str, dockerfile: str, inline: str = "") -> str:
    """The hash of a local context.

    Args:
        context: the folder, or a URL, whose content is not hashed.
        dockerfile: the Dockerfile's path, empty with an inline one.
        inline: the Dockerfile's text.

    Raises:
        ProviderError: a file of it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if inline:
            digest.update(inline.encode())
        elif dockerfile and not is_remote(dockerfile):
            digest.update(plain(Path(dockerfile), Path(context)))
        if not is_remote(context):
            root = Path(context)
            for name in included(root, dockerfile):
                _add(digest, root / name, name)
    except (BuildError, OSError, RuntimeError, ValueError) as error:  # a pattern that is none; a ring of links
        raise ProviderError(f"hashing build context: {error}") from error
    return digest.hexdigest()


def _add(digest: Any, path: Path, name: str) -> None:
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
    with opened(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)


def plain(path: Path, context: Path) -> bytes:
    """The content of what the docker command itself reads of a build: a Dockerfile, an ignore file.

    One that lies in the context may be no link out of it, as BuildKit has it; the docker command would follow one.

    Raises:
        OSError: It is not there, or is a link out of the context, a pipe or a device.
    """
    found = path.resolve(strict=True)
    written = Path(os.path.normpath(path.absolute()))
    within = written.is_relative_to(os.path.normpath(context.absolute()))
    if within and not found.is_relative_to(context.resolve()):
        raise PermissionError(errno.EPERM, "a symbolic link that leads out of the context is not followed", str(path))
    with opened(found) as file:
        return file.read(_LARGEST)


def included(root: Path, dockerfile: str = "") -> list[str]:
    """The files below *root* that Docker would send, as sorted relative paths."""
    ignore = DockerIgnore(_patterns(root, dockerfile))
    return sorted(walk(root, ignore.skips, ignore.leaves_out))


def _patterns(root: Path, dockerfile: str) -> list[str]:
    """`<Dockerfile>.dockerignore` before `.dockerignore`, as Docker looks for them."""
    candidates = [Path(f"{dockerfile}.dockerignore")] if dockerfile else []
    for path in (*candidates, root / ".dockerignore"):
        if os.path.lexists(path):
            return plain(path, root).decode("utf-8", "surrogateescape").removeprefix("\ufeff").splitlines()
    return []
