"""Which program a package has installed, linked to one place: run while the image is built, not while it serves.

`python3 installed.py pypi|npm NAME LINK`. By the standard library alone: nothing else is there yet.
"""

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, cast


class UndecidedError(Exception):
    """It can't be told which program is the server; the text says what to write."""


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""What a program may be called: a file's name, and no option."""


def console_scripts(place: Path, name: str) -> dict[str, Path]:
    """The programs of a Python package that is installed in the environment at *place*."""
    packages = [str(folder) for folder in place.glob("lib/python3*/site-packages")]
    for package in metadata.distributions(path=packages):
        if _folded(package.metadata["Name"]) == _folded(name):
            scripts = [one.name for one in package.entry_points.select(group="console_scripts")]
            return {name: place / "bin" / name for name in scripts if _NAME.fullmatch(name)}
    return {}


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def node_programs(place: Path, name: str) -> dict[str, Path]:
    """The programs of an npm package that is installed below *place*."""
    file = place / "node_modules" / name / "package.json"
    package = cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    bin_: Any = package.get("bin")
    said: dict[Any, Any] = {name.rpartition("/")[2]: bin_} if isinstance(bin_, str) else bin_ or {}
    programs = {str(program): _within(file.parent, path) for program, path in said.items()}
    return {program: path for program, path in programs.items() if _NAME.fullmatch(program)}


def _within(package: Path, path: object) -> Path:
    """A file of the package: what it names elsewhere is not its own to start, nor to have made executable."""
    found = package / str(path)
    if not found.resolve().is_relative_to(package.resolve()):
        raise UndecidedError(f"{package.name} names a program outside of itself; write stdio: {{command: [...]}}")
    return found


def choose(programs: dict[str, Path], name: str) -> Path:
    """The one program that is the server.

    Raises:
        UndecidedError: There is none, or there are several and none is called as the package.
    """
    if len(set(programs.values())) == 1:
        return next(iter(programs.values()))
    same = programs.get(name) or programs.get(name.rpartition("/")[2])
    if same is not None:
        return same
    if not programs:
        raise UndecidedError(f"{name} has no program; write stdio: {{command: [...]}} to say how it is started")
    raise UndecidedError(
        f"{name} has the programs {', '.join(sorted(programs))}; write stdio: {{command: [NAME]}} with one of them"
    )


def main(kind: str, name: str, link: str) -> None:
    """Link the program of the package *name* to *link*."""
    place = Path(link).parent
    program = choose(console_scripts(place, name) if kind == "pypi" else node_programs(place, name), name)
    if kind == "npm":
        # npm makes them executable through the links in .bin, and leaves those out with some versions.
        program.chmod(0o755)
    Path(link).symlink_to(program)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UndecidedError as error:
        sys.exit(str(error))
