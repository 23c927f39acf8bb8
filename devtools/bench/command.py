"""`./dev bench NAME`: finds the measurement and runs it."""

import os
from collections.abc import Callable, Mapping
from typing import Final

from mcpfleet_local_cloud.commands import stack
from mcpfleet_local_cloud.commands.phases import Phases, SetupError
from mcpfleet_local_cloud.commands.setup import prepare


def _up(phases: Phases, runs: int) -> None:
    from devtools.bench.up import bench_up

    bench_up(phases, stack.place_of(os.environ), prepare(phases), runs)


def _fleet(phases: Phases, runs: int) -> None:
    from devtools.bench.fleet import bench_fleet

    bench_fleet(phases, stack.place_of(os.environ), prepare(phases), runs)


def _bridge(phases: Phases, runs: int) -> None:
    from devtools.bench.bridge import bench_bridge

    bench_bridge(phases, runs)


def _soak(phases: Phases, runs: int) -> None:
    from devtools.bench.bridge import bench_soak

    for _ in range(runs):
        bench_soak(phases)


def _hostile(phases: Phases, runs: int) -> None:
    from devtools.bench.bridge import bench_hostile

    for _ in range(runs):
        bench_hostile(phases)


def _server(phases: Phases, runs: int) -> None:
    from devtools.bench.server import bench_server

    bench_server(phases, prepare(phases), runs)


def _connect(phases: Phases, runs: int) -> None:
    from devtools.bench.connect import bench_connect

    bench_connect(phases, stack.place_of(os.environ), runs)


def _before(phases: Phases, runs: int, base: str) -> None:
    from devtools.bench.before import bench_before

    bench_before(phases, prepare(phases), runs, base)


BEFORE: Final = "before"

BENCHMARKS: Final[Mapping[str, Callable[[Phases, int], None]]] = {
    "server": _server,
    "up": _up,
    "fleet": _fleet,
    "bridge": _bridge,
    "bridge-soak": _soak,
    "bridge-hostile": _hostile,
    "connect": _connect,
}


def bench(phases: Phases, name: str, runs: int, base: str) -> None:
    """Run the measurement *name*; only `before` measures beside the commit *base*.

    Raises:
        SetupError: There is none of that name.
    """
    if name == BEFORE:
        _before(phases, runs, base)
        return
    run = BENCHMARKS.get(name)
    if run is None:
        known = ", ".join((*BENCHMARKS, BEFORE))
        raise SetupError(f"There is no benchmark {name!r}.", f"the benchmarks are: {known}.")
    run(phases, runs)
