"""What other distributions add to the command, found by their entry points, and `mcpfleet check`.

The command imports neither `pulumi_mcpfleet` nor the local cloud. Each registers what it can do:

- group `mcpfleet.projects`: a module that reads the fleets of a project's folder (`Projects`)
- group `mcpfleet.commands`: a function that runs a subcommand with the given arguments
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Final, Protocol, cast

from rich.console import Console

from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.terminal import markup_safe

PROJECTS: Final = "mcpfleet.projects"
COMMANDS: Final = "mcpfleet.commands"


class NotInstalledError(McpfleetError):
    """A distribution that the command needs is not installed in its environment."""


class StackLocation(Protocol):
    """Where a stack is deployed."""

    @property
    def project(self) -> str:
        """The id of its project."""
        ...

    @property
    def universe(self) -> str:
        """The universe domain of its cloud: Google's, or the local cloud's."""
        ...

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of the fleet's resources."""
        ...


class StackFile(Protocol):
    """A stack's config file, as it was checked."""

    @property
    def name(self) -> str:
        """The name of the file."""
        ...

    @property
    def contents(self) -> str:
        """What its fleet has, in a few words; empty if the file has mistakes."""
        ...

    @property
    def mistakes(self) -> Sequence[str]:
        """One line for each mistake, which begins with its path."""
        ...

    @property
    def warnings(self) -> Sequence[str]:
        """One line for each deprecated key, which begins with its path."""
        ...


class ServerPlan(Protocol):
    """A server that `mcpfleet init` puts into a fleet."""

    @property
    def name(self) -> str:
        """Its name in the fleet."""
        ...

    @property
    def source(self) -> Mapping[str, Any]:
        """Its source, as a fleet has it."""
        ...

    @property
    def is_generated(self) -> bool:
        """Whether its Dockerfile is generated, and so builds on the base image of choice."""
        ...

    @property
    def decisions(self) -> Sequence[str]:
        """What was decided about it, a sentence each."""
        ...


class Projects(Protocol):
    """What reads the fleets of a project's folder. It raises ValueError with a message for the user."""

    def check_files(self, root: Path) -> Sequence[StackFile]:
        """Check the config file of every stack, without asking a cloud."""
        ...

    def check_project(self, root: Path) -> str:
        """Return the project's name. Raises ValueError if Pulumi.yaml is not that of a program in Python."""
        ...

    def read_location(self, root: Path, stack: str) -> StackLocation:
        """Read where a stack is deployed. The fleet may have mistakes."""
        ...

    def plan_server(self, source: str, root: Path, name: str | None, cwd: Path) -> ServerPlan:
        """Find out how a server is built and started."""
        ...


def find_projects(points: Iterable[EntryPoint] | None = None) -> Projects | None:
    """Return what reads a project's fleets; None if pulumi-mcpfleet is not installed.

    Args:
        points: The registered entry points; by default those of the environment.
    """
    found = _registered(PROJECTS) if points is None else points
    return cast("Projects | None", next((point.load() for point in found), None))


def find_command(name: str, distribution: str) -> Callable[[list[str]], object]:
    """Return the function that runs a subcommand of another distribution.

    Args:
        name: The subcommand.
        distribution: The distribution that has it.

    Raises:
        NotInstalledError: It is not installed.
    """
    for point in _registered(COMMANDS):
        if point.name == name:
            return cast("Callable[[list[str]], object]", point.load())
    raise NotInstalledError(
        f"mcpfleet {name} is in the package {distribution}, which is not installed here."
        f" In a project of mcpfleet init, type: uv run mcpfleet {name}. Elsewhere: uv add --dev {distribution}."
    )


def check(out: Console, root: Path, projects: Projects | None = None, *, as_json: bool = False) -> bool:
    """Print the mistakes and warnings of every stack's config file, under its name. Returns whether it has no mistake.

    Args:
        out: Where they are printed.
        root: The folder of Pulumi.yaml.
        projects: What reads fleets; by default what is installed.
        as_json: Print one JSON object.

    Raises:
        UsageError: The folder is not that of a project.
        NotInstalledError: Nothing here can read a fleet.
    """
    projects = projects or find_projects()
    if projects is None:
        raise NotInstalledError(
            "Nothing here can read a fleet: pulumi-mcpfleet is not installed beside this command. Run it in the"
            " environment of the fleet's Pulumi program: uv run mcpfleet check."
        )
    try:
        files = projects.check_files(root)
    except ValueError as error:
        raise UsageError(str(error)) from None
    is_right = not any(file.mistakes for file in files)
    if as_json:
        found = {
            file.name: {"ok": not file.mistakes, "mistakes": list(file.mistakes), "warnings": list(file.warnings)}
            for file in files
        }
        out.print(json.dumps({"ok": is_right, "files": found}, indent=2), markup=False)
        return is_right
    for file in files:
        mark = "[red]✗[/]" if file.mistakes else "[green]✓[/]"
        out.print(f"{mark} [bold]{markup_safe(file.name)}[/]  {markup_safe(file.contents)}".rstrip())
        for mistake in file.mistakes:
            out.print(f"    {markup_safe(mistake)}")
        for warning in file.warnings:
            out.print(f"    [yellow]![/] {markup_safe(warning)}")
    return is_right


def _registered(group: str) -> list[EntryPoint]:
    named = {"group": group}
    return [*cast("Iterable[EntryPoint]", entry_points(**named))]
