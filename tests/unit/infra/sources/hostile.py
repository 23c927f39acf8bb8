"""The standing adversary: repositories that try to reach outside of themselves, and to say more than a name."""

import json
import os
import socket
from pathlib import Path

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nnobody may see this\n"  # pragma: allowlist secret
"""What lies outside of the repository, on the machine of whoever deploys it."""

READ = (
    *("Dockerfile", ".dockerignore", ".gitignore", ".gcloudignore", "pyproject.toml", "uv.lock", "requirements.txt"),
    *("package.json", "package-lock.json", "pnpm-lock.yaml", "yarn.lock", "poetry.lock", "pylock.toml", "Procfile"),
    *(".python-version", "setup.py", "setup.cfg", ".yarnrc.yml", ".nvmrc", ".node-version", ".tool-versions"),
)
"""Files of a repository that are read on the machine of whoever deploys it."""


def to_a_key(place: Path, outside: Path) -> None:
    """A link to a file outside."""
    place.symlink_to(outside / "id_ed25519")


def relative(place: Path, outside: Path) -> None:
    """The same without an absolute path."""
    place.symlink_to(os.path.relpath(outside / "id_ed25519", place.parent))


def by_a_folder(place: Path, outside: Path) -> None:
    """A link to a file below a link to a folder outside."""
    link = place.parent / "way"
    link.unlink(missing_ok=True)
    link.symlink_to(outside)
    place.symlink_to("way/id_ed25519")


def to_memory(place: Path, outside: Path) -> None:
    """A link to what never ends."""
    place.symlink_to("/dev/zero")


def nowhere(place: Path, outside: Path) -> None:
    """A link to what is not there, yet."""
    place.symlink_to(outside / "made-later")


def in_a_ring(place: Path, outside: Path) -> None:
    """A link to itself."""
    place.symlink_to(place.name)


def pipe(place: Path, outside: Path) -> None:
    """A pipe into which nobody writes: to open it would wait for ever."""
    os.mkfifo(place)


def door(place: Path, outside: Path) -> None:
    """A socket."""
    listening = socket.socket(socket.AF_UNIX)
    working_directory = Path.cwd()
    os.chdir(place.parent)  # a socket's path has at most 108 bytes
    try:
        listening.bind(place.name)
    finally:
        os.chdir(working_directory)
        listening.close()


WAYS_OUT = (to_a_key, relative, by_a_folder, to_memory, nowhere, in_a_ring, pipe, door)


def outside(tmp_path: Path) -> Path:
    """A folder beside the repository with what must not get out."""
    place = tmp_path / "outside"
    (place / "server").mkdir(parents=True)
    (place / "id_ed25519").write_text(KEY)
    (place / "server" / "server.py").write_text(KEY)
    (place / "server" / "requirements.txt").write_text("mcp==2.3.0\n")
    return place


def package(**members: object) -> str:
    """A package.json."""
    return json.dumps({"name": "x", "version": "1.0.0", **members})


LINES = (
    "\nUSER 0\n",
    "\rUSER 0",
    "\u2028USER 0",
    "\x85USER 0",
    "\\\nUSER 0",
    " \n\nRUN id #",
    '"\nUSER 0\n"',
    "\x0bUSER 0",
)
"""What would begin a line of a Dockerfile, for one reader or another."""
