"""A source with the bridge in it: a copy, since a folder of the user's is not ours to write into."""

import os
import shutil
import stat
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Final

from pulumi_mcpfleet.sources.build_plan import BRIDGE_FOLDER
from pulumi_mcpfleet.sources.inside import is_file_in, read_in
from pulumi_mcpfleet.sources.layout import MAX_FILE

_LEFT_OUT: Final = (BRIDGE_FOLDER, ".git", ".venv", "venv", "node_modules", "__pycache__", ".mcpfleet", ".env")
"""What is not the source's own, or not to be in an image."""

_PACKAGES: Final = ("mcpfleet_bridge", "mcpfleet_server")
"""The bridge, and what it stands on; of the second the base alone."""

_LAST_WORDS: Final = {
    ".dockerignore": f"!{BRIDGE_FOLDER}",
    **dict.fromkeys((".gcloudignore", ".gitignore"), f"!/{BRIDGE_FOLDER}/\n!/{BRIDGE_FOLDER}/**"),
}
"""What takes the bridge in again, in the words of each file that Docker or Cloud Build goes by."""


def stage_bridge(place: Path) -> None:
    """Make *place* a folder of what an image needs for the bridge: its code, as it is installed here, and its lock.

    Raises:
        OSError: Something can't be read or written.
    """
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    with ExitStack() as held:
        bridge, base = (held.enter_context(resources.as_file(resources.files(name))) for name in _PACKAGES)
        for package in (bridge, base):
            (place / package.name).mkdir()
            for file in sorted(package.glob("*.py")):
                shutil.copyfile(file, place / package.name / file.name)
        shutil.copyfile(bridge / "requirements.txt", place / "requirements.txt")


def staged(source: Path, place: Path) -> None:
    """Make *place* a copy of *source* that holds the bridge.

    Args:
        source: The folder of the server.
        place: The folder to make; what was there is gone afterwards.

    Raises:
        OSError: Something can't be read or written.
        BuildPlanError: An ignore file is not the source's own.
    """
    shutil.rmtree(place, ignore_errors=True)
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(source, place, symlinks=True, ignore=ignored, copy_function=_copied)
    stage_bridge(place / BRIDGE_FOLDER)
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
