"""What `mcpfleet packages` asks of a folder's fleets: which packages they name, and what locks each.

The command finds this module by the entry point `mcpfleet.packages`, and runs Docker and prints itself.
"""

import datetime
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import yaml

from pulumi_mcpfleet.fleet import Fleet, FleetError, Stdio, parse_fleet
from pulumi_mcpfleet.sources.lock import Lock, lock_of
from pulumi_mcpfleet.sources.recipe import RecipeError
from pulumi_mcpfleet.sources.stdio import Stdio as StdioServer

_KEY: Final = "mcpfleet:fleet"


class PackagesError(ValueError):
    """The packages of a folder can't be told, or one can't be locked; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that a fleet names.

    Attributes:
        lock: What locks it.
        build_args: Of its image.
        root: The folder of Pulumi.yaml.
    """

    lock: Lock
    build_args: Mapping[str, str]
    root: Path

    @property
    def name(self) -> str:
        """The package with its version."""
        return self.lock.package

    @property
    def place(self) -> Path:
        """The folder of its lock."""
        return self.root / self.lock.folder

    @property
    def locked(self) -> bool:
        """Whether the lock has been made."""
        return self.lock.there(self.root)

    def dockerfile(self, today: datetime.date, days: int) -> str:
        """A Dockerfile whose image has the lock in /lock, of packages that are at least some days old."""
        return self.lock.dockerfile(self.lock.newest(today, days))

    def keep(self, made: Path) -> None:
        """Take over the files of a lock.

        Args:
            made: The folder that holds them.

        Raises:
            PackagesError: They lock nothing, or not all.
            OSError: They can't be written.
        """
        try:
            self.lock.keep(made, self.root)
        except (RecipeError, ValueError) as error:
            raise PackagesError(str(error)) from None


def packages_of(root: Path, stack: str | None = None) -> list[Package]:
    """The packages of the fleets of a folder, each once.

    Args:
        root: The folder of Pulumi.yaml.
        stack: Look at this stack alone, not at all that have a file.

    Raises:
        PackagesError: There is no such file, or a fleet has mistakes.
    """
    found: dict[str, Package] = {}
    for file in _files(root, stack):
        for source in _sources(_fleet(file)):
            lock = lock_of(StdioServer(**dict(source.stdio)), source.build_args)
            if lock.kind != "image":
                found.setdefault(lock.folder, Package(lock=lock, build_args=source.build_args, root=root))
    return list(found.values())


def _files(root: Path, stack: str | None) -> list[Path]:
    files = sorted(root.glob("Pulumi.*.yaml")) if stack is None else [root / f"Pulumi.{stack}.yaml"]
    if not files or not files[0].is_file():
        name = f"Pulumi.{stack or 'STACK'}.yaml"
        raise PackagesError(f"There is no {name} in {root}. Run this in the folder of Pulumi.yaml, or give --cwd.")
    return files


def _fleet(file: Path) -> Fleet | None:
    try:
        said: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PackagesError(f"{file.name} can't be read: {error}") from None
    config: Any = cast("dict[str, Any]", said).get("config") if isinstance(said, dict) else None
    raw: Any = cast("dict[str, Any]", config).get(_KEY) if isinstance(config, dict) else None
    try:
        return None if raw is None else parse_fleet(raw)
    except FleetError as error:
        raise PackagesError(f"{file.name}:\n{error}") from None


def _sources(fleet: Fleet | None) -> Iterator[Stdio]:
    workloads = [] if fleet is None else [*fleet.servers.values(), *fleet.clients.values()]
    yield from (one.source for one in workloads if isinstance(one.source, Stdio))
