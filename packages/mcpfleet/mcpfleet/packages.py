"""`mcpfleet packages`: the packages of a folder's fleets, locked by the package managers that will install them.

Which packages there are, the fleet's own distribution says, by the entry point `mcpfleet.packages`. Here Docker
runs what looks for their dependencies: package managers run code of packages while they do so.
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

GROUP: Final = {"group": "mcpfleet.packages"}
BUILD_SECONDS: Final = 1800.0
COMMAND_SECONDS: Final = 60.0
_SHOWN_LINES: Final = 20
_PLACE: Final = "/lock"
"""Where an image that makes a lock has its files."""

Run = Callable[[list[str], float], "subprocess.CompletedProcess[str]"]


class NoDockerError(McpfleetError):
    """Nothing can be locked here."""


class Package(Protocol):
    """A package that a fleet names."""

    @property
    def name(self) -> str:
        """The package with its version."""
        ...

    @property
    def build_args(self) -> Mapping[str, str]:
        """Of its image."""
        ...

    @property
    def place(self) -> Path:
        """The folder of its lock."""
        ...

    @property
    def locked(self) -> bool:
        """Whether the lock has been made."""
        ...

    def dockerfile(self, today: datetime.date, days: int) -> str:
        """What makes the lock, of packages that are at least some days old."""
        ...

    def keep(self, made: Path) -> None:
        """Take over the files of a lock. Raises ValueError where they lock not all."""
        ...


class Fleets(Protocol):
    """What knows the fleets of a folder. It raises ValueError where one has mistakes."""

    def look_up(self, root: Path, stack: str | None = None, *, renew: bool = False) -> list[str]:
        """Ask registries for the servers that are taken from them; gives those that were asked for."""
        ...

    def packages_of(self, root: Path, stack: str | None = None) -> list[Package]:
        """The packages of the fleets."""
        ...


def packages_of(
    folder: Path, stack: str | None, *, renew: bool = False, found: Sequence[EntryPoint] | None = None
) -> tuple[list[str], list[Package]]:
    """The packages of the fleets of a folder.

    Args:
        folder: The folder of Pulumi.yaml.
        stack: Look at this stack alone, not at all that have a file.
        renew: Whether registries are asked for what was looked up before.
        found: Who may say so; by default what is installed.

    Returns:
        The servers for which registries were asked, and the packages.

    Raises:
        McpfleetError: Nobody can, or a fleet has mistakes.
    """
    points = [*cast("Iterable[EntryPoint]", entry_points(**GROUP))] if found is None else found
    if not points:
        raise McpfleetError(
            "Nothing here can read a fleet: pulumi-mcpfleet is not installed beside this command. Run it from the"
            " environment of the fleet's Pulumi program."
        )
    fleets = cast("Fleets", points[0].load())
    try:
        return fleets.look_up(folder, stack, renew=renew), fleets.packages_of(folder, stack)
    except ValueError as error:
        raise McpfleetError(str(error)) from None


def lock(packages: Sequence[Package], today: datetime.date, days: int, run: Run = run_program) -> Iterator[Package]:
    """Make the lock of each package; gives each that is done. One that fails keeps no other from its lock.

    Args:
        packages: What is to be locked.
        today: The date.
        days: How old each version has to be that is taken.
        run: Runs a program.

    Raises:
        McpfleetError: Some can't be locked, each of which it names; raised behind the last one that is done.
        NoDockerError: There is no Docker.
    """
    failed: dict[str, str] = {}
    for package in packages:
        try:
            _locked(package, package.dockerfile(today, days), run)
        except NoDockerError:
            raise
        except McpfleetError as error:
            failed[package.name] = str(error)
        else:
            yield package
    if failed and len(packages) > 1:
        rest = "The others are locked." if len(failed) < len(packages) else "Locks that were there are as they were."
        failed[""] = f"{len(failed)} of {len(packages)} packages can't be locked: {', '.join(failed)}. {rest}"
    if failed:
        raise McpfleetError("\n".join(failed.values()))


def _locked(package: Package, dockerfile: str, run: Run) -> None:
    with tempfile.TemporaryDirectory(prefix="mcpfleet-lock-") as scratch:
        _made(package, dockerfile, Path(scratch), run)
        try:
            package.keep(Path(scratch) / "lock")
        except (OSError, ValueError) as error:
            raise McpfleetError(f"{package.name} can't be locked: {error}") from None


def _made(package: Package, dockerfile: str, scratch: Path, run: Run) -> None:
    """Have Docker make the lock, in the folder `lock` of *scratch*."""
    context = scratch / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(dockerfile, encoding="utf-8")
    arguments = [part for name, value in package.build_args.items() for part in ("--build-arg", f"{name}={value}")]
    image = _docker(package, run, ["build", "--quiet", *arguments, str(context)], BUILD_SECONDS)
    container = _docker(package, run, ["create", image, "true"])
    try:
        _docker(package, run, ["cp", f"{container}:{_PLACE}", str(scratch / "lock")])
    finally:
        _docker(package, run, ["rm", container])


def _docker(package: Package, run: Run, words: list[str], seconds: float = COMMAND_SECONDS) -> str:
    """What docker prints, in its last line."""
    try:
        done = run(["docker", *words], seconds)
    except FileNotFoundError:
        raise NoDockerError("A lock is made in Docker, and there is no docker command. Install Docker.") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise McpfleetError(f"{package.name} can't be locked: {error}") from None
    if done.returncode:
        said = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        raise McpfleetError(
            "\n".join([f"{package.name} can't be locked:", *(f"  {line}" for line in said[-_SHOWN_LINES:])])
            + "\nWhere a version is too young, name an older one, or give --min-age."
        )
    return done.stdout.strip().rpartition("\n")[2]
