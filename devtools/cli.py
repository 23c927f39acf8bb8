"""The commands of `./dev`: those of the local cloud, and those for this repository's developers.

Each command imports its modules when it runs, so that `./dev` itself starts fast.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mcpfleet_local_cloud.commands.cli import begin_phases, new_app, run
from mcpfleet_local_cloud.commands.paths import EXTRA_SETUP, Paths

app = new_app("./dev", "Deploy a fleet of MCP servers on this machine, test it, and remove it.")

EXTRA_SETUP["Example image"] = "devtools.example_image:find_toolbox_image"

# The tests of a file share fixtures, so each file runs in one process. In the order of their names, the slowest files
# come first; they mostly wait for containers and timeouts. More than four local clouds would need too much memory.
_WORKERS = min(4, 2 * (os.cpu_count() or 1))
_PARALLEL = [f"--numprocesses={_WORKERS}", "--dist=loadfile", "--no-loadscope-reorder"]

_BENCHMARKS = {
    "server": "server:bench_server",
    "up": "up:bench_up",
    "fleet": "fleet:bench_fleet",
    "bridge": "bridge:bench_bridge",
    "bridge-soak": "bridge:bench_soak",
    "bridge-hostile": "bridge:bench_hostile",
    "connect": "connect:bench_connect",
    "before": "before:bench_before",
    "ingress": "ingress:bench_ingress",
}
"""The module and function of each benchmark; the names of a function's parameters decide its arguments."""


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="",
)
def test(context: typer.Context) -> None:
    """Set up this machine and run all tests, several files at a time; with arguments for pytest, one test at a time.

    If you are root, the command creates an ordinary user, runs the tests as this user, and then runs those that need
    root. With --as-root as the first argument, it runs all of them as root. With --engines, it runs the tests of other
    Docker engines, which it creates.
    """
    from mcpfleet_local_cloud.commands.setup import prepare

    prepared = prepare(begin_phases())
    os.chdir(Paths.from_environ(os.environ).root)
    sys.stdout.flush()
    command, environ = [sys.executable, "-m", "pytest"], prepared.environment()
    match context.args:
        case []:
            others = "not engines and not corpus and not languages"
            argument_lists = [[*_PARALLEL, "-m", f"not root and {others}"], ["-m", f"root and {others}"]]
        case ["--engines", *further]:
            argument_lists = [[], ["-m", "engines", *further]]
        case ["--as-root", *further]:
            argument_lists = [[], further]
        case further:
            argument_lists = [further, []]
    user_arguments, root_arguments = argument_lists
    if os.geteuid() == 0:
        code = _run_as_ordinary_user([*command, *user_arguments], environ) if user_arguments else 0
        if root_arguments:
            code = subprocess.run([*command, *root_arguments], env=environ, check=False).returncode or code
        sys.exit(code)
    os.execve(sys.executable, [*command, *(user_arguments or root_arguments)], environ)  # noqa: S606


def _run_as_ordinary_user(command: list[str], environ: dict[str, str]) -> int:
    """Run *command* as a new user; returns its exit code."""
    from tests.integration import engines

    with engines.ordinary_user("docker") as user:
        user_environment = {
            **user.environment(),
            **{name: environ[name] for name in ("PATH", "DOCKER_HOST")},
            # The user can't write into root's environment; without this, each process would compile all its imports.
            "PYTHONPYCACHEPREFIX": str(user.home / "bytecode"),
        }
        print(f"as an ordinary user, {user.name}; as root: ./dev test --as-root", flush=True)
        arguments = [*command, "-p", "no:cacheprovider"]
        return subprocess.run(user.command(arguments, Path.cwd()), env=user_environment, check=False).returncode


@app.command()
def check() -> None:
    """Check format, lint, types, secrets, licenses and known vulnerabilities."""
    from devtools.check import check as run_checks

    run_checks(begin_phases())


@app.command()
def setup() -> None:
    """Install missing tools on this machine."""
    from mcpfleet_local_cloud.commands.setup import prepare

    prepare(begin_phases())


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(help=f"What to measure: {', '.join(_BENCHMARKS)}."),
    ],
    runs: Annotated[int, typer.Option(min=1, help="Number of runs; the command prints the median.")] = 3,
    base: Annotated[
        str, typer.Option(metavar="COMMIT", help="For `before` and `ingress`: the commit to compare with.")
    ] = "HEAD",
) -> None:
    """Run a benchmark, and print the figures."""
    from importlib import import_module

    from mcpfleet_local_cloud.commands import stack
    from mcpfleet_local_cloud.commands.phases import SetupError
    from mcpfleet_local_cloud.commands.setup import prepare

    phases, checkout = begin_phases(), stack.find_cloud_folder(os.environ)
    function = _BENCHMARKS.get(name)
    if function is None:
        raise SetupError(f"There is no benchmark {name!r}.", f"the benchmarks are: {', '.join(_BENCHMARKS)}.")
    module, _, function = function.partition(":")
    suppliers: dict[str, Callable[[], Any]] = {
        "phases": lambda: phases,
        "place": lambda: checkout,
        "prepared": lambda: prepare(phases),
        "runs": lambda: runs,
        "base": lambda: base,
    }
    measure = getattr(import_module(f"devtools.bench.{module}"), function)
    measure(**{parameter: suppliers[parameter]() for parameter in signature(measure).parameters})


@app.command()
def packages(
    names: Annotated[list[str] | None, typer.Argument(help="Parts of packages' names; by default all.")] = None,
) -> None:
    """Deploy well-known servers of npm and PyPI, list and call each, and write docs/packages.md."""
    from devtools.packages import try_packages
    from mcpfleet_local_cloud.commands import stack
    from mcpfleet_local_cloud.commands.setup import prepare

    phases = begin_phases()
    try_packages(phases, stack.find_cloud_folder(os.environ), prepare(phases), names or ())


def main() -> NoReturn:
    """Run the command in sys.argv."""
    run(app)
