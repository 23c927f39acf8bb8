"""A source with the bridge in it: a copy, since a folder of the user's is not ours to write into."""

import shutil
from pathlib import Path
from typing import Final

from infra.sources.recipe import BRIDGE_FOLDER

_LEFT_OUT: Final = (".git", ".venv", "venv", "node_modules", "__pycache__", ".mcpfleet", ".env")
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
    """
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    target = place / BRIDGE_FOLDER
    target.mkdir()
    for file in (*sorted(bridge.glob("*.py")), bridge / "pyproject.toml", bridge / "uv.lock"):
        shutil.copyfile(file, target / file.name)
    for name, lines in _LAST_WORDS.items():
        ignore = place / name
        if ignore.is_file():
            # It may leave out everything but a few files, and the last word counts.
            ignore.write_text(ignore.read_text(encoding="utf-8").rstrip() + f"\n{lines}\n", encoding="utf-8")
