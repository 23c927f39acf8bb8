"""`./dev bench NAME`: finds the measurement and runs it."""

import os

from workbench import stack
from workbench.phases import Phases, SetupError
from workbench.setup import prepare


def bench(phases: Phases, name: str, runs: int) -> None:
    """Run the measurement *name*.

    Raises:
        SetupError: There is none of that name.
    """
    if name != "up":
        raise SetupError(f"There is no benchmark {name!r}.", "the benchmarks are: up.")
    from benchmarks.up import bench_up

    bench_up(phases, stack.place_of(os.environ), prepare(phases), runs)
