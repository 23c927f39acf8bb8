"""Rules between the containers of one instance: names, ports, start order, and the sum of CPU and memory."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from pulumi_mcpfleet.fleet import quantities, rules
from pulumi_mcpfleet.fleet.access import LoginAccess
from pulumi_mcpfleet.fleet.base import Mistake
from pulumi_mcpfleet.fleet.parts import Sidecar
from pulumi_mcpfleet.fleet.workload import BUILT_PORT

LOGIN: Final = "login"
"""The name of the container of `access: login`, which takes the requests."""

LOGIN_PORT: Final = 18080
"""The port on which it listens; if the server has this one, the next."""

LOGIN_CPU: Final = "1"
LOGIN_MEMORY: Final = "512Mi"

SERVER: Final = "server"
"""The name of the server's main container."""

# Cloud Run, "CPU limits" and "Memory limits": the limits of all containers of an instance together.
_MAX_CPUS: Final = 8
_MAX_MEMORY: Final = 32 * 1024  # MiB


def sidecar_mistakes(
    server: Mapping[str, Any], sidecars: Mapping[str, Sidecar], invalid: Callable[[str], Collection[str]]
) -> Iterator[Mistake]:
    """Find what Cloud Run would refuse in the sidecars of a server.

    Args:
        server: The server's keys, without those that have mistakes.
        sidecars: The server's sidecars.
        invalid: Returns the names below a key that have mistakes of their own; references to them are not checked.
    """
    if SERVER in sidecars:
        yield (SERVER,), "is the name of the server's own container; write another"
    if LOGIN in sidecars and isinstance(server.get("access"), LoginAccess):
        yield (LOGIN,), "is the name of the container of access: login; write another"
    for name, sidecar in sidecars.items():
        if "volumes" in server:
            yield from _mount_mistakes(name, sidecar, server["volumes"], invalid("volumes"))
        for index, message in unknown_dependencies(sidecar.depends_on, sidecars, invalid("sidecars")):
            yield (name, "depends_on", *index), message
    yield from _port_mistakes(server, sidecars)
    yield from _cycle_mistakes(sidecars)
    if sidecars and "cpu" in server and "memory" in server:
        yield from _sum_mistakes(sidecars, server["cpu"], server["memory"])


def login_port(server_port: int) -> int:
    """The port of the container of `access: login`, in front of a server with a port."""
    return LOGIN_PORT if server_port != LOGIN_PORT else LOGIN_PORT + 1


def unknown_dependencies(
    names: Sequence[str], sidecars: Collection[str], invalid: Collection[str]
) -> Iterator[Mistake]:
    """Find dependencies on a sidecar that does not exist; those with *invalid* names are not checked."""
    for index, name in enumerate(names):
        if name not in sidecars and name not in invalid:
            choices = f"available: {', '.join(sidecars)}" if sidecars else "add it to sidecars"
            yield (index,), f"{name!r} is not a sidecar; {choices}"


def _mount_mistakes(
    name: str, sidecar: Sidecar, volumes: Mapping[str, Any], invalid: Collection[str]
) -> Iterator[Mistake]:
    for volume in sidecar.mounts:
        if volume not in volumes and volume not in invalid:
            choices = f"available: {', '.join(volumes)}" if volumes else "add it to volumes"
            yield (name, "mounts", volume), f"is not a volume of the server; {choices}"
    for path, message in rules.mount_mistakes(sidecar.mounts, rules.secret_folders(sidecar.secrets)):
        yield (name, "mounts", *path), message


def _port_mistakes(server: Mapping[str, Any], sidecars: Mapping[str, Sidecar]) -> Iterator[Mistake]:
    """Find sidecars whose port another container has: the containers of an instance share one localhost."""
    used: dict[int, str] = {getattr(server.get("source"), "port", BUILT_PORT): "the server"}
    if isinstance(server.get("access"), LoginAccess):
        used[login_port(next(iter(used)))] = "the container of access: login"
    for name, sidecar in sidecars.items():
        port = sidecar.startup.port if sidecar.startup else None
        if port is None:
            continue
        other = used.setdefault(port, name)
        if other != name:
            message = (
                f"{port} is {other}'s, and the containers of an instance share one localhost; have one of them listen"
                " on another"
            )
            yield (name, "startup", "port"), message


def _cycle_mistakes(sidecars: Mapping[str, Sidecar]) -> Iterator[Mistake]:
    try:
        tuple(TopologicalSorter({name: sidecar.depends_on for name, sidecar in sidecars.items()}).static_order())
    except CycleError as cycle:
        path: list[str] = cycle.args[1]
        yield (path[0], "depends_on"), f"depends on itself ({' -> '.join(path)}); remove one of these"


def _sum_mistakes(sidecars: Mapping[str, Sidecar], cpu: str, memory: str) -> Iterator[Mistake]:
    if quantities.cpus(cpu) > _MAX_CPUS or quantities.mebibytes(memory) > _MAX_MEMORY:
        return  # only with the largest GPU, for which Google documents no limit
    cpus = quantities.cpus(cpu) + sum(quantities.cpus(sidecar.cpu) for sidecar in sidecars.values())
    size = quantities.mebibytes(memory) + sum(quantities.mebibytes(sidecar.memory) for sidecar in sidecars.values())
    if cpus > _MAX_CPUS:
        yield (), f"have {cpus:g} CPUs with the server; an instance has at most {_MAX_CPUS}: lower some cpu"
    if size > _MAX_MEMORY:
        yield (), f"have {size / 1024:g}Gi with the server; an instance has at most 32Gi: lower some memory"
