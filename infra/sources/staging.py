"""A source with the bridge in it: a copy, since a folder of the user's is not ours to write into."""

import os
import shutil
import stat
from pathlib import Path
from typing import Final

from infra.sources.inside import is_file_in, read_in
from infra.sources.layout import MAX_FILE
from infra.sources.recipe import BRIDGE_FOLDER

_LEFT_OUT: Final = (BRIDGE_FOLDER, ".git", ".venv", "venv", "node_modules", "__pycache__", ".mcpfleet", ".env")
"""What is not the source's own, or not to be in an image."""

_LAST_WORDS: Final = {
    ".dockerignore": f"!{BRIDGE_FOLDER}",
    **dict.fromkeys((".gcloudignore", ".gitignore"), f"!/{BRIDGE_FOLDER}/\n!/{BRIDGE_FOLDER}/**"),
}
"""What takes the bridge in again, in the words of each file that Docker or Cloud Build goes by."""


def staged(source: Path, bridge: Path, place: Path) -> None:
    """Make *place* a copy of *source* that holds the bridge.

    Args:
        source: The folder of the server.
        bridge: The folder of the bridge.
        place: The folder to make; what was there is gone afterwards.

    Raises:
        OSError: Something can't be read or written.
        RecipeError: An ignore file is not the source's own.
    """
    shutil.rmtree(place, ignore_errors=True)
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(source, place, symlinks=True, ignore=ignored, copy_function=_copied)
    target = place / BRIDGE_FOLDER
    target.mkdir()
    for file in (*sorted(bridge.glob("*.py")), bridge / "pyproject.toml", bridge / "uv.lock"):
        shutil.copyfile(file, target / file.name)
    for name, lines in _LAST_WORDS.items():
        if is_file_in(source, name):
            said = read_in(source, name, MAX_FILE).decode("utf-8", "surrogateescape")
            # A file of our own in its place: what was copied may be a link, and nothing is written through one.
            (place / name).unlink()
            # It may leave out everything but a few files, and the last word counts.
            (place / name).write_text(f"{said.rstrip()}\n{lines}\n", encoding="utf-8", errors="surrogateescape")


def _copied(file: str, target: str) -> None:
    """Copy a plain file; a pipe, a socket or a device has no content to copy."""
    if stat.S_ISREG(os.lstat(file).st_mode):
        shutil.copy2(file, target, follow_symlinks=False)
