"""`mcpfleet-local-cloud`: the commands that run a stack on this machine, in any folder with a Pulumi.yaml.

Each command imports the modules that it needs when it runs, so that `--help` is fast.
"""

import os
import sys
import time
from collections.abc import Generator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Final, NoReturn

import typer

from mcpfleet.terminal import configure_streams
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, SeveralErrors

# The exit code that typer gives for Ctrl-C.
INTERRUPTED: Final = 130

# Commands for which Ctrl-C is the normal end: they leave no partial work behind.
ENDED_BY_CTRL_C: Final = {"logs", "proxy"}

Server = Annotated[str, typer.Argument(help="The name of a server or client in the fleet.")]


def new_app(name: str, help_text: str) -> typer.Typer:
    """Return a typer application with the commands of this module. Callers may add further commands."""
    app = typer.Typer(
        name=name, help=help_text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    for command in (up, down, verify, status, env, logs, proxy):
        app.command()(command)
    return app


def begin_phases() -> Phases:
    """Start the progress display of this run, with the phase that `./dev` ran before Python."""
    phases = Phases()
    record_environment(phases, os.environ, time.time())
    return phases


def record_environment(phases: Phases, environ: MutableMapping[str, str], now: float) -> None:
    """Show the phase that ran before Python did.

    Args:
        phases: Where to show it.
        environ: The environment, with MCPFLEET_ENVIRONMENT (the work that was done) and MCPFLEET_STARTED (the start
            of `./dev` in seconds since 1970; empty if the shell has no such clock). Both are removed, so that child
            processes do not report the phase again.
        now: Seconds since 1970.
    """
    done, started = environ.pop("MCPFLEET_ENVIRONMENT", None), environ.pop("MCPFLEET_STARTED", "")
    if not done:
        return  # the program was started as `python -m devtools`
    try:
        # Some locales have the shell write a comma.
        seconds = now - float(started.replace(",", "."))
    except ValueError:
        seconds = None
    phases.record("Python environment", seconds, done)


def up(
    name: Annotated[
        str | None,
        typer.Option(
            "--stack", metavar="NAME", help="The stack of Pulumi.NAME.yaml. Default: the deployed stack, or local."
        ),
    ] = None,
) -> None:
    """Install missing prerequisites, deploy a stack, verify it, and print its URLs."""
    from mcpfleet_local_cloud.commands import stack

    stack.up(begin_phases(), name)


def down(
    force: Annotated[
        bool, typer.Option("--force", help="Also remove resources that are missing from the stack's state.")
    ] = False,
) -> None:
    """Destroy the deployed stack, check that nothing is left, and stop the local cloud."""
    from mcpfleet_local_cloud.commands import stack

    stack.down(begin_phases(), force=force)


def verify(
    call: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER/TOOL", help="A tool to call. Default: only tools that declare themselves read-only."
        ),
    ] = None,
    arguments: Annotated[str | None, typer.Option(help="The tool's arguments, as a JSON object.")] = None,
    timeout: Annotated[
        int | None,
        typer.Option(metavar="SECONDS", help="How long one check may take. Default: 60.", min=1, max=3600),
    ] = None,
) -> None:
    """Verify the deployed servers and clients by calling them."""
    from mcpfleet_local_cloud.commands import stack

    stack.verify(begin_phases(), call, arguments, timeout)


def status() -> None:
    """Print the deployed servers and clients, with their URLs."""
    from mcpfleet_local_cloud.commands import stack

    stack.status(Phases())


def env(
    real_plugins: Annotated[
        bool, typer.Option("--real-plugins", help="Use the official plugins, not the emulated providers.")
    ] = False,
) -> None:
    """Print the exports with which `pulumi … -s STACK` works in your shell."""
    from mcpfleet_local_cloud.commands import stack

    stack.env(Phases(), real_plugins=real_plugins)


def logs(
    server: Server,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines as they arrive.")] = False,
) -> None:
    """Print the logs of a server or client."""
    from mcpfleet_local_cloud.commands import stack

    stack.logs(Phases(), server, follow=follow)


def proxy(
    server: Server,
    port: Annotated[
        int | None,
        typer.Option(help="The local port; 0 chooses a free port. Default: the port in its client configuration."),
    ] = None,
) -> None:
    """Run a proxy on a local port that adds an invoker's ID token to each request."""
    from mcpfleet_local_cloud.commands import stack

    stack.proxy(Phases(), server, port)


def run(app: typer.Typer, words: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit. A `SetupError` is printed as one message without a traceback, with exit code 1.

    Args:
        app: The commands.
        words: The command and its arguments; by default those of the process.
    """
    configure_streams()
    phases = Phases()
    arguments = [*(sys.argv[1:] if words is None else words)] or ["--help"]
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    if arguments and not arguments[0].startswith("-") and arguments[0] not in commands:
        # Typer prints only the mistake; the user also needs the list of commands.
        phases.console.print(f"error: there is no command {arguments[0]!r}.\n", markup=False, soft_wrap=True)
        _run(app, ["--help"])
        sys.exit(2)
    with errors_shown(phases):
        code = _run(app, arguments)
    if code == INTERRUPTED and arguments[0] not in ENDED_BY_CTRL_C:
        phases.console.print("Stopped. Finished work is kept for the next run.")
    sys.exit(code)


@contextmanager
def errors_shown(phases: Phases) -> Generator[None]:
    """Show each `SetupError` of a block as one message, and exit with code 1 after it."""
    try:
        yield
    except SeveralErrors as failures:
        for error in failures.errors:
            phases.show_error(error)
        sys.exit(1)
    except SetupError as error:
        phases.show_error(error)
        sys.exit(1)


def _run(app: typer.Typer, arguments: list[str]) -> int:
    try:
        app(arguments, prog_name=app.info.name)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def local(words: list[str]) -> NoReturn:
    """Run `mcpfleet local`; an entry point of the group `mcpfleet.commands`."""
    program = typed_program(os.environ)
    os.environ["MCPFLEET_PROGRAM"] = program  # before a module with messages is imported (`paths.PROGRAM`)
    run(new_app(program, "Deploy a fleet of MCP servers on this machine, verify it, and remove it."), words)


def typed_program(environ: Mapping[str, str]) -> str:
    """What the user typed for `mcpfleet local`: with `uv run` if uv started this process, as it says itself."""
    return "uv run mcpfleet local" if environ.get("UV_RUN_RECURSION_DEPTH") else "mcpfleet local"


def main() -> NoReturn:
    """Run the command line; the entry point of the package."""
    run(new_app("mcpfleet-local-cloud", "Deploy a fleet of MCP servers on this machine, verify it, and remove it."))
