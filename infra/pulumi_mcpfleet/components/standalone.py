"""Parses and validates the arguments of components, including a standalone server, client or foundation.

A standalone component is parsed as the only member of a fleet, so all rules of a fleet apply to it. In error messages,
paths begin with the component's name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import pulumi

from pulumi_mcpfleet.components.deferred import Deferred
from pulumi_mcpfleet.fleet import Fleet, FleetError, Server, find_deprecated_keys, parse_fleet
from pulumi_mcpfleet.fleet.mistakes import format_path

PROJECT: Final = "project"
LOAD_BALANCER: Final = "load_balancer"
_FLEET_KEYS: Final = ("region", "regions", "new_regions", "profile", "organization")
_FOUNDATION_KEYS: Final = ("registry", "cloud_build", "platform")
_PLACEHOLDER_REGION: Final = "europe-west1"
_PLACEHOLDER_SERVER: Final = {"source": {"image": f"docker.io/library/none@sha256:{'0' * 64}"}}


@dataclass(frozen=True)
class ValidatedArguments:
    """Validated arguments of a component.

    Attributes:
        project: The Google Cloud project.
        fleet: The arguments as a fleet.
        deferred: The outputs among the arguments.
    """

    project: str
    fleet: Fleet
    deferred: Deferred


def read_fleet(args: Mapping[str, Any]) -> ValidatedArguments:
    """Parse the arguments of a `Fleet`.

    Raises:
        pulumi.RunError: There are mistakes; the text has one line for each.
    """
    raw = {key: value for key, value in args.items() if key != PROJECT}
    return _parse(args, raw, str)


def read_server(name: str, args: Mapping[str, Any], *, shared: bool) -> ValidatedArguments:
    """Parse the arguments of the `McpServer` *name*.

    Args:
        name: The name of the component and of the server.
        args: The arguments, without the foundation.
        shared: True if the program gives it a foundation, which can be shared.

    Raises:
        pulumi.RunError: There are mistakes; the text has one line for each.
    """
    fleet, server = _split(args, name, shared=shared)
    if (balanced := server.pop(LOAD_BALANCER, True)) is not True:
        if balanced is not False:
            raise pulumi.RunError(
                f"{name}.{LOAD_BALANCER}: {balanced!r:.60} is neither true nor false; write one of them"
            )
        if "domain" not in server:
            raise pulumi.RunError(f"{name}.{LOAD_BALANCER}: needs a domain; add domain")
        fleet[LOAD_BALANCER] = "shared"
    return _parse(args, {**fleet, "servers": {name: server}}, _line_formatter("servers", name))


def read_client(
    name: str, args: Mapping[str, Any], servers: Mapping[str, Server], *, shared: bool
) -> ValidatedArguments:
    """Parse the arguments of the `McpClient` *name*, which calls *servers*.

    Raises:
        pulumi.RunError: There are mistakes; the text has one line for each.
    """
    fleet, client = _split(args, name, shared=shared)
    if client.get("topology") == "mesh":
        raise pulumi.RunError(f"{name}.topology: mesh needs a Fleet, which has the mesh; write service or sidecar")
    called_servers = {called: server.model_dump(exclude_unset=True) for called, server in servers.items()}
    raw = {
        **fleet,
        "servers": called_servers or {"none": _PLACEHOLDER_SERVER},
        "clients": {name: {**client, "calls": [*called_servers]}},
    }
    return _parse(args, raw, _line_formatter("clients", name))


def read_foundation(name: str, args: Mapping[str, Any]) -> ValidatedArguments:
    """Parse the arguments of the `Foundation` *name*.

    Raises:
        pulumi.RunError: There are mistakes; the text has one line for each.
    """
    raw = {key: value for key, value in args.items() if key != PROJECT}
    return _parse(args, {**raw, "servers": {"none": _PLACEHOLDER_SERVER}}, _line_formatter("servers", "none", name))


def _split(args: Mapping[str, Any], name: str, *, shared: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split *args* into the keys of the fleet and the keys of its one server or client."""
    misplaced = [key for key in _FOUNDATION_KEYS if key in args and shared]
    if misplaced:
        lines = [
            f"{name}.{key}: is an argument of the foundation; move it to the Foundation, or remove foundation"
            for key in misplaced
        ]
        raise pulumi.RunError("\n".join(lines))
    fleet = {key: args[key] for key in (*_FLEET_KEYS, *_FOUNDATION_KEYS) if key in args}
    workload = {key: value for key, value in args.items() if key not in fleet and key != PROJECT}
    return fleet, workload


def _region(fleet: Mapping[str, Any]) -> str:
    """Return the first region, or a placeholder if the arguments have no valid one."""
    regions = fleet.get("regions")
    first = cast("Sequence[Any]", regions)[0] if isinstance(regions, list | tuple) and regions else fleet.get("region")
    return first if isinstance(first, str) else _PLACEHOLDER_REGION


def _line_formatter(section: str, name: str, display_name: str | None = None) -> Callable[[str], str]:
    """Return a function that changes the path in a line of the fleet's report to one below the component's name."""
    component, fleet = format_path([section, name]), format_path([])

    def format_line(line: str) -> str:
        if line.startswith(component):
            return line.replace(component, display_name or name)
        return line.replace(f"{fleet}.", f"{display_name or name}.", 1)

    return format_line


def _parse(args: Mapping[str, Any], raw: Mapping[str, Any], format_line: Callable[[str], str]) -> ValidatedArguments:
    deferred = Deferred(_region(raw), 2, lambda path: format_line(format_path(path)))
    plain = deferred.replace(raw)
    lines = [*deferred.mistakes]
    project = args.get(PROJECT)
    if not isinstance(project, str) or not project:
        lines.append(format_line(f"{format_path([PROJECT])}: missing; add the id of the Google Cloud project"))
    if not lines:
        try:
            fleet = parse_fleet(plain, root=Path.cwd())
        except FleetError as error:
            lines = [format_line(line) for line in str(error).splitlines()]
        else:
            for warning in find_deprecated_keys(plain):
                pulumi.log.warn(format_line(warning))
            return ValidatedArguments(str(project), fleet, deferred)
    raise pulumi.RunError("\n".join(lines))
