"""A server, a client or a foundation by itself in a program: from its arguments to what the fleet's rules have checked.

It is read as the only one of a fleet, so that every rule of a fleet holds for it, and each mistake is under its path.
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
_ANY_REGION: Final = "europe-west1"
_ANY_SERVER: Final = {"source": {"image": f"docker.io/library/none@sha256:{'0' * 64}"}}


@dataclass(frozen=True)
class Arguments:
    """Checked arguments.

    Attributes:
        project: The Google Cloud project.
        fleet: The fleet that they are.
        deferred: The outputs among them.
    """

    project: str
    fleet: Fleet
    deferred: Deferred


def read_fleet(args: Mapping[str, Any]) -> Arguments:
    """The arguments of a `Fleet`.

    Raises:
        pulumi.RunError: They have mistakes; all of them are in the text, one to a line.
    """
    raw = {key: value for key, value in args.items() if key != PROJECT}
    return _parsed(args, raw, str)


def read_server(name: str, args: Mapping[str, Any], *, shared: bool) -> Arguments:
    """The arguments of the `McpServer` *name*.

    Args:
        name: The component's name, which is the server's.
        args: The arguments, without the foundation.
        shared: Whether it has a foundation that others may have, too.

    Raises:
        pulumi.RunError: They have mistakes; all of them are in the text, one to a line.
    """
    fleet, server = _split(args, name, shared=shared)
    if (balanced := server.pop(LOAD_BALANCER, True)) is not True:
        if balanced is not False:
            raise pulumi.RunError(
                f"{name}.{LOAD_BALANCER}: {balanced!r:.60} is neither true nor false; write one of them"
            )
        if "domain" not in server:
            raise pulumi.RunError(f"{name}.{LOAD_BALANCER}: is about a domain, and there is none; add domain")
        fleet[LOAD_BALANCER] = "shared"
    return _parsed(args, {**fleet, "servers": {name: server}}, _under("servers", name))


def read_client(name: str, args: Mapping[str, Any], servers: Mapping[str, Server], *, shared: bool) -> Arguments:
    """The arguments of the `McpClient` *name*, which calls *servers*.

    Raises:
        pulumi.RunError: They have mistakes; all of them are in the text, one to a line.
    """
    fleet, client = _split(args, name, shared=shared)
    if client.get("topology") == "mesh":
        raise pulumi.RunError(f"{name}.topology: mesh needs a Fleet, which has the mesh; write service or sidecar")
    known = {called: server.model_dump(exclude_unset=True) for called, server in servers.items()}
    raw = {**fleet, "servers": known or {"none": _ANY_SERVER}, "clients": {name: {**client, "calls": [*known]}}}
    return _parsed(args, raw, _under("clients", name))


def read_foundation(name: str, args: Mapping[str, Any]) -> Arguments:
    """The arguments of the `Foundation` *name*.

    Raises:
        pulumi.RunError: They have mistakes; all of them are in the text, one to a line.
    """
    raw = {key: value for key, value in args.items() if key != PROJECT}
    return _parsed(args, {**raw, "servers": {"none": _ANY_SERVER}}, _under("servers", "none", name))


def _split(args: Mapping[str, Any], name: str, *, shared: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of a fleet, and those of its one server or client."""
    own = [key for key in _FOUNDATION_KEYS if key in args and shared]
    if own:
        lines = [
            f"{name}.{key}: is the foundation's; give it to the Foundation, or leave foundation out" for key in own
        ]
        raise pulumi.RunError("\n".join(lines))
    above = {key: args[key] for key in (*_FLEET_KEYS, *_FOUNDATION_KEYS) if key in args}
    below = {key: value for key, value in args.items() if key not in above and key != PROJECT}
    return above, below


def _region(fleet: Mapping[str, Any]) -> str:
    """The first region, if there is one that can be read."""
    several = fleet.get("regions")
    first = cast("Sequence[Any]", several)[0] if isinstance(several, list | tuple) and several else fleet.get("region")
    return first if isinstance(first, str) else _ANY_REGION


def _under(section: str, name: str, shown: str | None = None) -> Callable[[str], str]:
    """What writes a line of the fleet's report for one component: under its name."""
    own, whole = format_path([section, name]), format_path([])

    def line(text: str) -> str:
        return (
            text.replace(own, shown or name)
            if text.startswith(own)
            else text.replace(f"{whole}.", f"{shown or name}.", 1)
        )

    return line


def _parsed(args: Mapping[str, Any], raw: Mapping[str, Any], line: Callable[[str], str]) -> Arguments:
    deferred = Deferred(_region(raw), 2, lambda path: line(format_path(path)))
    plain = deferred.replace(raw)
    lines = [*deferred.mistakes]
    project = args.get(PROJECT)
    if not isinstance(project, str) or not project:
        lines.append(line(f"{format_path([PROJECT])}: missing; add the id of the Google Cloud project"))
    if not lines:
        try:
            fleet = parse_fleet(plain, root=Path.cwd())
        except FleetError as error:
            lines = [line(text) for text in str(error).splitlines()]
        else:
            for text in find_deprecated_keys(plain):
                pulumi.log.warn(line(text))
            return Arguments(str(project), fleet, deferred)
    raise pulumi.RunError("\n".join(lines))
