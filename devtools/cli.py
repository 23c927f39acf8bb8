"""The commands of `./dev`. Each imports what it needs when it runs: `./dev` alone answers at once."""

import os
import sys
import time
from collections.abc import MutableMapping
from typing import Annotated, NoReturn

import typer

from mcpfleet_local_cloud.commands.paths import Paths
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, SeveralErrors

app = typer.Typer(
    name="./dev",
    help="Deploys a fleet of MCP servers on this machine, tests it, and takes it away again.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

# What typer makes of Ctrl-C.
INTERRUPTED = 130

# Commands that Ctrl-C ends as it should: they make nothing that could be kept.
ENDED_BY_CTRL_C = {"logs", "proxy"}

# A file's tests share their fixtures and their order. In the order of their names the files that take minutes come
# first; more clouds than four at once would take more memory than they save time.
_SIDE_BY_SIDE = ["--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder"]

Server = Annotated[str, typer.Argument(help="A server's or client's name in the fleet.")]


def _phases() -> Phases:
    """Return the progress of this run, which begins with what `./dev` itself has done."""
    phases = Phases()
    record_environment(phases, os.environ, time.time())
    return phases


def record_environment(phases: Phases, environ: MutableMapping[str, str], now: float) -> None:
    """Show the phase that ran before Python did.

    Args:
        phases: Where to show it.
        environ: Holds MCPFLEET_ENVIRONMENT (what was done) and MCPFLEET_STARTED (seconds since 1970 at which
            `./dev` began; empty where the shell has no such clock). Both are taken out of it: a command that this
            one starts did not begin with it.
        now: Seconds since 1970.
    """
    done, started = environ.pop("MCPFLEET_ENVIRONMENT", None), environ.pop("MCPFLEET_STARTED", "")
    if not done:
        return  # started as `python -m devtools`
    try:
        # Some locales have the shell write a comma.
        seconds = now - float(started.replace(",", "."))
    except ValueError:
        seconds = None
    phases.record("Python environment", seconds, done)


@app.command()
def up(
    name: Annotated[
        str | None,
        typer.Option(
            "--stack", metavar="NAME", help="The stack of Pulumi.NAME.yaml; by default what is deployed, or local."
        ),
    ] = None,
) -> None:
    """Set up this machine, deploy a stack of it, verify it, and print how to reach it."""
    from mcpfleet_local_cloud.commands import stack

    stack.up(_phases(), name)


@app.command()
def down(
    force: Annotated[bool, typer.Option("--force", help="Remove also what the stack's state does not know.")] = False,
) -> None:
    """Destroy the stack that is deployed, prove that nothing is left, stop the local cloud."""
    from mcpfleet_local_cloud.commands import stack

    stack.down(_phases(), force=force)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    options_metavar="",
)
def test(context: typer.Context) -> None:
    """Set up this machine and run every test, several files at once; arguments go to pytest, one test after another."""
    from mcpfleet_local_cloud.commands.setup import prepare

    prepared = prepare(_phases())
    root = Paths.of(os.environ).root
    os.chdir(root)
    sys.stdout.flush()
    arguments = context.args or _SIDE_BY_SIDE
    os.execve(sys.executable, [sys.executable, "-m", "pytest", *arguments], prepared.environment())  # noqa: S606


@app.command()
def check() -> None:
    """Check format, lint, types, secrets, licences and known weaknesses, side by side."""
    from devtools.check import check as run_checks

    run_checks(_phases())


@app.command()
def setup() -> None:
    """Set up this machine and do nothing more."""
    from mcpfleet_local_cloud.commands.setup import prepare

    prepare(_phases())


@app.command()
def verify(
    call: Annotated[
        str | None,
        typer.Option(metavar="SERVER/TOOL", help="A tool to call; else only what says that it only reads."),
    ] = None,
    arguments: Annotated[str | None, typer.Option(help="The tool's arguments, as a JSON object.")] = None,
) -> None:
    """Verify the deployed stack as a client would."""
    from mcpfleet_local_cloud.commands import stack

    stack.verify(_phases(), call, arguments)


@app.command()
def status() -> None:
    """Print what is deployed and where it answers."""
    from mcpfleet_local_cloud.commands import stack

    stack.status(Phases())


@app.command()
def env() -> None:
    """Print the exports with which plain `pulumi … -s STACK` works in your own shell."""
    from mcpfleet_local_cloud.commands import stack

    stack.env(Phases())


@app.command()
def logs(
    server: Server,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on printing new lines.")] = False,
) -> None:
    """Print the log lines of a server or client."""
    from mcpfleet_local_cloud.commands import stack

    stack.logs(Phases(), server, follow=follow)


@app.command()
def proxy(
    server: Server,
    port: Annotated[
        int | None, typer.Option(help="The local port; that of its client configuration by default, 0 for a free one.")
    ] = None,
) -> None:
    """Open an authenticated proxy to a server or client on a local port."""
    from mcpfleet_local_cloud.commands import stack

    stack.proxy(Phases(), server, port)


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

    benchmarks.bench(_phases(), name, runs, base)


def main() -> NoReturn:
    """Run one command. A failure of the surroundings ends with one message and exit code 1, no traceback."""
    phases = Phases()
    arguments = sys.argv[1:] or ["--help"]
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        # Typer names the mistake; the list of commands is what the user needs next.
        phases.console.print(f"error: there is no command {arguments[0]!r}.\n", markup=False, soft_wrap=True)
        _run(["--help"])
        sys.exit(2)
    try:
        code = _run(arguments)
    except SeveralErrors as several:
        for error in several.errors:
            phases.show_error(error)
    except SetupError as error:
        phases.show_error(error)
    else:
        if code == INTERRUPTED and arguments[0] not in ENDED_BY_CTRL_C:
            phases.console.print("stopped; what was made is kept for the next run.")
        sys.exit(code)
    sys.exit(1)


def _run(arguments: list[str]) -> int:
    try:
        app(arguments, prog_name="./dev")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
