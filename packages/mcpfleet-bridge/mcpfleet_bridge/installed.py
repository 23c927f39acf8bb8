"""Links the program that a package has installed to a fixed path. Runs while the image is built.

Usage: `python3 installed.py pypi|npm NAME LINK`. It uses only the standard library, because nothing else is installed
yet.
"""

import json
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, cast


class UndecidedError(Exception):
    """The server's program can't be determined; the text says what to write."""


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
"""A valid name of a program: a file name that can't be mistaken for an option."""


def find_console_scripts(environment: Path, name: str) -> dict[str, Path]:
    """Return the programs of a Python package that is installed in *environment*, by name."""
    packages = [str(folder) for folder in environment.glob("lib/python3*/site-packages")]
    for package in metadata.distributions(path=packages):
        if _normalize(package.metadata["Name"]) == _normalize(name):
            scripts = [entry_point.name for entry_point in package.entry_points.select(group="console_scripts")]
            return {name: environment / "bin" / name for name in scripts if _NAME.fullmatch(name)}
    return {}


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find_node_programs(folder: Path, name: str) -> dict[str, Path]:
    """Return the programs of an npm package that is installed below *folder*, by name."""
    file = folder / "node_modules" / name / "package.json"
    package = cast("dict[str, Any]", json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    bin_: Any = package.get("bin")
    entries: dict[Any, Any] = {name.rpartition("/")[2]: bin_} if isinstance(bin_, str) else bin_ or {}
    programs = {str(program): _resolve_program(file.parent, path) for program, path in entries.items()}
    return {program: path for program, path in programs.items() if _NAME.fullmatch(program)}


def _resolve_program(package: Path, path: object) -> Path:
    """Return the path of a program, which must be inside its package: it will be made executable and started."""
    program = package / str(path)
    if not program.resolve().is_relative_to(package.resolve()):
        raise UndecidedError(f"{package.name} names a program outside the package; write stdio: {{command: [...]}}")
    return program


def choose_program(programs: dict[str, Path], name: str) -> Path:
    """Choose the program that is the server.

    Raises:
        UndecidedError: There is no program, or there are several and none has the package's name.
    """
    if len(set(programs.values())) == 1:
        return next(iter(programs.values()))
    program = programs.get(name) or programs.get(name.rpartition("/")[2])
    if program is not None:
        return program
    if not programs:
        raise UndecidedError(f"{name} has no program; write stdio: {{command: [...]}} with the command that starts it")
    raise UndecidedError(
        f"{name} has the programs {', '.join(sorted(programs))}; write stdio: {{command: [NAME]}} with one of them"
    )


def main(registry: str, name: str, link: str) -> None:
    """Link the program of the package *name* to *link*."""
    folder = Path(link).parent
    program = choose_program(
        find_console_scripts(folder, name) if registry == "pypi" else find_node_programs(folder, name), name
    )
    if registry == "npm":
        # npm makes programs executable when it links them in .bin, which some versions don't do.
        program.chmod(0o755)
    Path(link).symlink_to(program)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except UndecidedError as error:
        sys.exit(str(error))
