"""Writes files for a build outside of the source, because the user's folder must not be changed."""

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

STATE_FOLDER: Final = ".mcpfleet"
"""The folder in which a project has the state and the private keys of its local cloud, and the fetched sources."""

_LEFT_OUT: Final = (BRIDGE_FOLDER, ".git", ".venv", "venv", "node_modules", "__pycache__", STATE_FOLDER, ".env")
"""Files and folders that are not copied: they are not part of the source, or must not be in an image."""

_PACKAGES: Final = ("mcpfleet_bridge", "mcpfleet_server")
"""The bridge, and the package that it needs; of the second only the modules at its top."""

_KEEP_BRIDGE_LINES: Final = {
    ".dockerignore": f"!{BRIDGE_FOLDER}",
    **dict.fromkeys((".gcloudignore", ".gitignore"), f"!/{BRIDGE_FOLDER}/\n!/{BRIDGE_FOLDER}/**"),
}
"""Patterns that include the bridge, in the syntax of each ignore file that Docker or Cloud Build reads."""

_EXCLUDE_STATE: Final = f"**/{STATE_FOLDER}"
_ANY_BYTES: Final = ("utf-8", "surrogateescape")


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


def stage_login(target: Path) -> None:
    """Create the folder *target* with the files of the image of `access: login`, as they are installed here.

    Raises:
        OSError: A file can't be read or written.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    with ExitStack() as stack:
        login, base = (
            stack.enter_context(resources.as_file(resources.files(name))) for name in ("mcpfleet_login", _PACKAGES[1])
        )
        for package, folder in ((login, login), (base, base), (base, base / "hosting")):
            place = target / package.name / folder.relative_to(package)
            place.mkdir()
            for file in sorted(folder.glob("*.py")):
                shutil.copyfile(file, place / file.name)
        shutil.copyfile(login / "requirements.txt", target / "requirements.txt")


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


def excludes_state_folder(source: Path, dockerfile: str) -> bool:
    """Whether the ignore file of a Dockerfile excludes `.mcpfleet` at every depth.

    Args:
        source: The build context.
        dockerfile: The path of the Dockerfile in it; empty if the Dockerfile is generated.

    Raises:
        BuildPlanError: The ignore file is not a plain file of the source.
        OSError: The ignore file can't be read.
    """
    lines = [line.strip() for line in _ignore_lines(source, dockerfile)]
    exclusion = max((number for number, line in enumerate(lines) if line == _EXCLUDE_STATE), default=None)
    return exclusion is not None and not any(line.startswith("!") for line in lines[exclusion:])


def stage_dockerfile(source: Path, dockerfile: str, generated: str, target: Path) -> None:
    """Write a Dockerfile outside of its build context, with an ignore file that also excludes `.mcpfleet`.

    Docker reads the ignore file beside a Dockerfile instead of the one in the context.

    Args:
        source: The build context.
        dockerfile: The path of the Dockerfile in it; empty if the Dockerfile is generated.
        generated: The text of the generated Dockerfile.
        target: The Dockerfile to write.

    Raises:
        BuildPlanError: The Dockerfile or its ignore file is not a plain file of the source.
        OSError: A file can't be read or written.
    """
    content = read_file_in(source, dockerfile, MAX_FILE) if dockerfile else generated.encode()
    # The last pattern decides, so no exception before it includes the folder again.
    lines = "\n".join([*_ignore_lines(source, dockerfile), _EXCLUDE_STATE, ""])
    target.parent.mkdir(parents=True, exist_ok=True)
    for path, text in ((target, content), (target.with_name(f"{target.name}.dockerignore"), lines.encode(*_ANY_BYTES))):
        path.unlink(missing_ok=True)  # it can be a link, and nothing may be written through a link
        path.write_bytes(text)


def _ignore_lines(source: Path, dockerfile: str) -> list[str]:
    """The lines of the ignore file that Docker reads for a Dockerfile."""
    names = [*([f"{dockerfile}.dockerignore"] if dockerfile else []), ".dockerignore"]
    name = next((name for name in names if os.path.lexists(source / name)), None)
    return read_file_in(source, name, MAX_FILE).decode(*_ANY_BYTES).splitlines() if name else []


def _copy_plain_file(file: str, target: str) -> None:
    """Copy a plain file; a pipe, a socket or a device has no content to copy."""
    if stat.S_ISREG(os.lstat(file).st_mode):
        shutil.copy2(file, target, follow_symlinks=False)
