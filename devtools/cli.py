"""The commands of `./dev`: those of the local cloud, and what only this repository's developers need.

Each imports what it needs when it runs: `./dev` alone answers at once.
"""

import os
import sys
from typing import Annotated, NoReturn

import typer

from mcpfleet_local_cloud.commands.cli import begun, new_app, run
from mcpfleet_local_cloud.commands.paths import Paths

app = new_app("./dev", "Deploys a fleet of MCP servers on this machine, tests it, and takes it away again.")

# A file's tests share their fixtures and their order. In the order of their names the files that take minutes come
# first; more clouds than four at once would take more memory than they save time.
_SIDE_BY_SIDE = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]


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
        typer.Argument(
            help="What to measure: server, up, fleet, bridge, bridge-soak, bridge-hostile, connect or before."
        ),
    ],
    runs: Annotated[int, typer.Option(min=1, help="How often; the median is printed.")] = 3,
    base: Annotated[
        str, typer.Option(metavar="COMMIT", help="For `before`: the commit that server and bridge are measured beside.")
    ] = "HEAD",
) -> None:
    """Measure, and print the figures."""
    from devtools.bench import command as benchmarks

    benchmarks.bench(begun(), name, runs, base)


def main() -> NoReturn:
    """Run one command."""
    run(app)
