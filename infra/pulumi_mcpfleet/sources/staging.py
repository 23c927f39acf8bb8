"""Copies a source and adds the bridge's files, because the user's folder must not be changed."""

import os
import shutil
import stat
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Final

from pulumi_mcpfleet.sources.build_plan import BRIDGE_FOLDER
from pulumi_mcpfleet.sources.layout import MAX_FILE
from pulumi_mcpfleet.sources.safe_paths import is_file_in, read_file_in

_LEFT_OUT: Final = (BRIDGE_FOLDER, ".git", ".venv", "venv", "node_modules", "__pycache__", ".mcpfleet", ".env")
"""Files and folders that are not copied: they are not part of the source, or must not be in an image."""

_PACKAGES: Final = ("mcpfleet_bridge", "mcpfleet_server")
"""The bridge, and the package that it needs; of the second only the modules at its top."""

_KEEP_BRIDGE_LINES: Final = {
    ".dockerignore": f"!{BRIDGE_FOLDER}",
    **dict.fromkeys((".gcloudignore", ".gitignore"), f"!/{BRIDGE_FOLDER}/\n!/{BRIDGE_FOLDER}/**"),
}
"""Patterns that include the bridge, in the syntax of each ignore file that Docker or Cloud Build reads."""


def stage_bridge(target: Path) -> None:
    """Create the folder *target* with the bridge's files for an image: its code as it is installed here, and its lock.

    Raises:
        OSError: A file can't be read or written.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with ExitStack() as stack:
        bridge, base = (stack.enter_context(resources.as_file(resources.files(name))) for name in _PACKAGES)
        for package in (bridge, base):
            (target / package.name).mkdir()
            for file in sorted(package.glob("*.py")):
                shutil.copyfile(file, target / package.name / file.name)
        shutil.copyfile(bridge / "requirements.txt", target / "requirements.txt")


def stage_source(source: Path, target: Path) -> None:
    """Create *target* as a copy of *source* with the bridge's files.

    Args:
        source: The folder of the server.
        target: The folder to create; an existing one is replaced.

    Raises:
        OSError: A file can't be read or written.
        BuildPlanError: An ignore file is not a plain file of the source.
    """
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(source, target, symlinks=True, ignore=ignored, copy_function=_copy_plain_file)
    stage_bridge(target / BRIDGE_FOLDER)
    for name, lines in _KEEP_BRIDGE_LINES.items():
        if is_file_in(source, name):
            content = read_file_in(source, name, MAX_FILE).decode("utf-8", "surrogateescape")
            # The copy is replaced, because it can be a link, and nothing may be written through a link.
            (target / name).unlink()
            # The file can exclude everything but a few files. The last pattern decides.
            (target / name).write_text(f"{content.rstrip()}\n{lines}\n", encoding="utf-8", errors="surrogateescape")


def _copy_plain_file(file: str, target: str) -> None:
    """Copy a plain file; a pipe, a socket or a device has no content to copy."""
    if stat.S_ISREG(os.lstat(file).st_mode):
        shutil.copy2(file, target, follow_symlinks=False)
