"""The commands of `./dev`: those of the local cloud, and what only this repository's developers need.

Each imports what it needs when it runs: `./dev` alone answers at once.
"""

import os
import sys
from collections.abc import Callable
from inspect import signature
from typing import Annotated, Any, NoReturn

import typer

from mcpfleet_local_cloud.commands.cli import begun, new_app, run
from mcpfleet_local_cloud.commands.paths import ALSO_MADE, Paths

app = new_app("./dev", "Deploys a fleet of MCP servers on this machine, tests it, and takes it away again.")

ALSO_MADE["Example image"] = "devtools.example_image:find_toolbox_image"

# A file's tests share their fixtures. In the order of their names the files that take minutes come
# first; more clouds than four at once would take more memory than they save time.
_SIDE_BY_SIDE = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]

_BENCHMARKS = {
    "server": "server:bench_server",
    "up": "up:bench_up",
    "fleet": "fleet:bench_fleet",
    "bridge": "bridge:bench_bridge",
    "bridge-soak": "bridge:bench_soak",
    "bridge-hostile": "bridge:bench_hostile",
    "connect": "connect:bench_connect",
    "before": "before:bench_before",
}
"""Module and function of each; a function gets what its parameters are called."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="",
)
def test(context: typer.Context) -> None:
    """Set up this machine and run every test, several files at once; arguments go to pytest, one test after another."""
    from mcpfleet_local_cloud.commands.setup import prepare

    prepared = prepare(begun())
    root = Paths.of(os.environ).root
    os.chdir(root)
    sys.stdout.flush()
    arguments = context.args or _SIDE_BY_SIDE
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *arguments], prepared.environment())  # noqa: S606


@app.command()
def check() -> None:
    """Check format, lint, types, secrets, licences and known weaknesses, side by side."""
    from devtools.check import check as run_checks

    run_checks(begun())


@app.command()
def setup() -> None:
    """Set up this machine and do nothing more."""
    from mcpfleet_local_cloud.commands.setup import prepare

    prepare(begun())


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(help=f"What to measure: {', '.join(_BENCHMARKS)}."),
    ],
    runs: Annotated[int, typer.Option(min=1, help="How often; the median is printed.")] = 3,
    base: Annotated[
        str, typer.Option(metavar="COMMIT", help="For `before`: the commit that server and bridge are measured beside.")
    ] = "HEAD",
) -> None:
    """Measure, and print the figures."""
    from importlib import import_module

    from mcpfleet_local_cloud.commands import stack
    from mcpfleet_local_cloud.commands.phases import SetupError
    from mcpfleet_local_cloud.commands.setup import prepare

    phases, place = begun(), stack.place_of(os.environ)
    function = _BENCHMARKS.get(name)
    if function is None:
        raise SetupError(f"There is no benchmark {name!r}.", f"the benchmarks are: {', '.join(_BENCHMARKS)}.")
    module, _, function = function.partition(":")
    given: dict[str, Callable[[], Any]] = {
        "phases": lambda: phases,
        "place": lambda: place,
        "prepared": lambda: prepare(phases),
        "runs": lambda: runs,
        "base": lambda: base,
    }
    measure = getattr(import_module(f"devtools.bench.{module}"), function)
    measure(**{wanted: given[wanted]() for wanted in signature(measure).parameters})


def main() -> NoReturn:
    """Run one command."""
    run(app)
