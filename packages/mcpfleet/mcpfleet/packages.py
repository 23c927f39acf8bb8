"""`mcpfleet packages`: locks the packages of a folder's fleets, with the package managers that later install them.

The distribution of the fleet finds the packages, through the entry point `mcpfleet.packages`. The package managers
resolve the dependencies in Docker, because they run code of the packages while they do so.
"""

from __future__ import annotations

import datetime
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final, Protocol, cast

from mcpfleet.errors import McpfleetError
from mcpfleet.system import run_program

ENTRY_POINT_GROUP: Final = {"group": "mcpfleet.packages"}
BUILD_SECONDS: Final = 1800.0
COMMAND_SECONDS: Final = 60.0
_SHOWN_LINES: Final = 20
_LOCK_FOLDER: Final = "/lock"
"""The folder of the lock files in the image that creates them."""

Run = Callable[[list[str], float], "subprocess.CompletedProcess[str]"]


class NoDockerError(McpfleetError):
    """Docker is not installed, so no package can be locked."""


class Package(Protocol):
    """A package of a fleet's server."""

    @property
    def name(self) -> str:
        """The package with its version."""
        ...

    @property
    def build_args(self) -> Mapping[str, str]:
        """The build arguments of the image that creates the lock."""
        ...

    @property
    def lock_folder(self) -> Path:
        """The folder of its lock."""
        ...

    @property
    def is_locked(self) -> bool:
        """True if the lock exists."""
        ...

    def dockerfile(self, today: datetime.date, days: int) -> str:
        """The Dockerfile of the image that creates the lock, of versions that are at least *days* old."""
        ...

    def save_lock(self, built: Path) -> None:
        """Save the files of a new lock, in the folder *built*. Raises ValueError if a dependency is not locked."""
        ...


class Fleets(Protocol):
    """Reads the fleets of a folder. Its methods raise ValueError if a fleet has mistakes."""

    def look_up(self, root: Path, stack: str | None = None, *, renew: bool = False) -> list[str]:
        """Look up the servers of MCP registries; returns the names that were looked up."""
        ...

    def find_packages(self, root: Path, stack: str | None = None) -> list[Package]:
        """The packages of the fleets."""
        ...


def find_packages(
    folder: Path, stack: str | None, *, renew: bool = False, readers: Sequence[EntryPoint] | None = None
) -> tuple[list[str], list[Package]]:
    """Find the packages of the fleets of a folder.

    Args:
        folder: The folder of Pulumi.yaml.
        stack: Read this stack only; by default every stack that has a config file.
        renew: Whether to look up servers again that were looked up before.
        readers: The entry points that read fleets; by default those that are installed.

    Returns:
        The servers that were looked up in registries, and the packages.

    Raises:
        McpfleetError: No entry point is installed, or a fleet has mistakes.
    """
    points = [*cast("Iterable[EntryPoint]", entry_points(**ENTRY_POINT_GROUP))] if readers is None else readers
    if not points:
        raise McpfleetError(
            "pulumi-mcpfleet, which reads the fleet, is not installed in this Python environment. Run this command in"
            " the environment of the fleet's Pulumi program."
        )
    fleets = cast("Fleets", points[0].load())
    try:
        return fleets.look_up(folder, stack, renew=renew), fleets.find_packages(folder, stack)
    except ValueError as error:
        raise McpfleetError(str(error)) from None


def lock_packages(
    packages: Sequence[Package], today: datetime.date, days: int, run: Run = run_program
) -> Iterator[Package]:
    """Create the lock of each package, and yield each package that is locked. A failure does not stop the others.

    Args:
        packages: The packages to lock.
        today: The date.
        days: The minimum age of a version.
        run: Runs a program.

    Raises:
        McpfleetError: Packages can't be locked; it names each, and is raised after the last package.
        NoDockerError: Docker is not installed.
    """
    failed: dict[str, str] = {}
    for package in packages:
        try:
            _lock_package(package, package.dockerfile(today, days), run)
        except NoDockerError:
            raise
        except McpfleetError as error:
            failed[package.name] = str(error)
        else:
            yield package
    if failed and len(packages) > 1:
        rest = "The others are locked." if len(failed) < len(packages) else "Existing locks are unchanged."
        failed[""] = f"{len(failed)} of {len(packages)} packages can't be locked: {', '.join(failed)}. {rest}"
    if failed:
        raise McpfleetError("\n".join(failed.values()))


def _lock_package(package: Package, dockerfile: str, run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="mcpfleet-lock-") as scratch:
        _build_lock(package, dockerfile, Path(scratch), run)
        try:
            package.save_lock(Path(scratch) / "lock")
        except (OSError, ValueError) as error:
            raise McpfleetError(f"{package.name} can't be locked: {error}") from None


def _build_lock(package: Package, dockerfile: str, scratch: Path, run: Run) -> None:
    """Create the lock in Docker, and copy it to the folder `lock` of *scratch*."""
    context = scratch / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    arguments = [part for name, value in package.build_args.items() for part in ("--build-arg", f"{name}={value}")]
    image = _run_docker(package, run, ["build", "--quiet", *arguments, str(context)], BUILD_SECONDS)
    container = _run_docker(package, run, ["create", image, "true"])
    try:
        _run_docker(package, run, ["cp", f"{container}:{_LOCK_FOLDER}", str(scratch / "lock")])
    finally:
        _run_docker(package, run, ["rm", container])


def _run_docker(package: Package, run: Run, arguments: list[str], seconds: float = COMMAND_SECONDS) -> str:
    """Run docker; returns the last line of its output.

    Raises:
        NoDockerError: Docker is not installed.
        McpfleetError: The command failed.
    """
    try:
        done = run(["docker", *arguments], seconds)
    except FileNotFoundError:
        raise NoDockerError(
            "Locks are created in Docker, and the docker command is not installed. Install Docker."
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise McpfleetError(f"{package.name} can't be locked: {error}") from None
    if done.returncode:
        output = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise McpfleetError(
            "\n".join([f"{package.name} can't be locked:", *(f"  {line}" for line in output[-_SHOWN_LINES:])])
            + "\nIf a version is too new, use an older one, or lower --min-age."
        )
    return done.stdout.strip().rpartition("\n")[2]
