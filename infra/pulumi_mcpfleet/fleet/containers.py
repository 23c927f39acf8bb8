"""The rules between the containers of one instance: names, ports, order, and what fits."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from pulumi_mcpfleet.fleet import quantities, rules
from pulumi_mcpfleet.fleet.base import Mistake
from pulumi_mcpfleet.fleet.parts import Sidecar
from pulumi_mcpfleet.fleet.workload import BUILT_PORT

SERVER: Final = "server"
"""The name of the server's own container, beside its sidecars."""

# Cloud Run, "CPU limits" and "Memory limits": of all containers of an instance together.
_ALL_CPUS: Final = 8
_ALL_MEMORY: Final = 32 * 1024  # MiB


def sidecar_mistakes(
    server: Mapping[str, Any], sidecars: Mapping[str, Sidecar], left_out: Callable[[str], Collection[str]]
) -> Iterator[Mistake]:
    """What Cloud Run would refuse of *sidecars* beside a server with these keys; keys with mistakes are absent.

    Args:
        server: The server's keys.
        sidecars: Its sidecars.
        left_out: The names below a key of which nothing is said.
    """
    if SERVER in sidecars:
        yield (SERVER,), "is the name of the server's own container; write another"
    for name, sidecar in sidecars.items():
        if "volumes" in server:
            yield from _mounts(name, sidecar, server["volumes"], left_out("volumes"))
        for index, other in unknown(sidecar.depends_on, sidecars, left_out("sidecars")):
            yield (name, "depends_on", *index), other
    yield from _ports(server, sidecars)
    yield from _circle(sidecars)
    if sidecars and "cpu" in server and "memory" in server:
        yield from _sums(sidecars, server["cpu"], server["memory"])


def unknown(names: Sequence[str], sidecars: Collection[str], left_out: Collection[str]) -> Iterator[Mistake]:
    """Dependencies on a sidecar that is not there; of those *left_out* nothing is said."""
    for index, name in enumerate(names):
        if name not in sidecars and name not in left_out:
            there = f"there is {', '.join(sidecars)}" if sidecars else "there are none"
            yield (index,), f"{name!r} is not a sidecar; {there}"


def _mounts(name: str, sidecar: Sidecar, volumes: Mapping[str, Any], left_out: Collection[str]) -> Iterator[Mistake]:
    for volume in sidecar.mounts:
        if volume not in volumes and volume not in left_out:
            there = f"there is {', '.join(volumes)}" if volumes else "add it there"
            yield (name, "mounts", volume), f"is not among the server's volumes; {there}"
    for path, sentence in rules.hidden(sidecar.mounts, rules.folders(sidecar.secrets)):
        yield (name, "mounts", *path), sentence


def _ports(server: Mapping[str, Any], sidecars: Mapping[str, Sidecar]) -> Iterator[Mistake]:
    """An instance's containers share one localhost."""
    taken: dict[int, str] = {getattr(server.get("source"), "port", BUILT_PORT): "the server"}
    for name, sidecar in sidecars.items():
        port = sidecar.startup.port if sidecar.startup else None
        if port is None:
            continue
        other = taken.setdefault(port, name)
        if other != name:
            sentence = (
                f"{port} is {other}'s, and the containers of an instance share one localhost; have one of them listen"
                " on another"
            )
            yield (name, "startup", "port"), sentence


def _circle(sidecars: Mapping[str, Sidecar]) -> Iterator[Mistake]:
    try:
        tuple(TopologicalSorter({name: one.depends_on for name, one in sidecars.items()}).static_order())
    except CycleError as cycle:
        around: list[str] = cycle.args[1]
        yield (around[0], "depends_on"), f"waits for itself ({' -> '.join(around)}); remove one of these"


def _sums(sidecars: Mapping[str, Sidecar], cpu: str, memory: str) -> Iterator[Mistake]:
    if quantities.cpus(cpu) > _ALL_CPUS or quantities.mebibytes(memory) > _ALL_MEMORY:
        return  # beside the largest GPU; how many there are is Google's to say
    cpus = quantities.cpus(cpu) + sum(quantities.cpus(one.cpu) for one in sidecars.values())
    size = quantities.mebibytes(memory) + sum(quantities.mebibytes(one.memory) for one in sidecars.values())
    if cpus > _ALL_CPUS:
        yield (), f"have {cpus:g} CPUs with the server; an instance has at most {_ALL_CPUS}: lower some cpu"
    if size > _ALL_MEMORY:
        yield (), f"have {size / 1024:g}Gi with the server; an instance has at most 32Gi: lower some memory"
