"""The commands of a user's project: `mcpfleet init`, `check`, `local`, `rehearse` and `secrets`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from mcpfleet import options
from mcpfleet.errors import UsageError
from mcpfleet.terminal import console

_out = console()

secrets = typer.Typer(no_args_is_help=True, help="Store the values that servers read from Secret Manager.")


def add_project_commands(app: typer.Typer) -> None:
    """Add the commands to those of the command line."""
    app.command()(init)
    app.command()(check)
    app.add_typer(secrets, name="secrets")
    # Whatever follows is the business of the other distribution, its help too.
    others: dict[str, object] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=others, options_metavar="")(local)
    app.command(context_settings=others, options_metavar="")(rehearse)


def _parse_folder(text: str) -> Path:
    """Refuse an empty argument, such as an unset variable of a script: it would mean the current folder."""
    if not str(text):
        raise typer.BadParameter("is empty; name a folder, or type . for the current one.")
    return Path(text)


def init(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=_parse_folder, metavar="FOLDER", help="The folder of the project. Default: the current folder."
        ),
    ] = Path(),
    server: Annotated[
        str | None,
        typer.Option(
            metavar="SERVER",
            help="The first server: hello (one of your own, with its tests), a folder, the URL of a git repository"
            " (with #REF), npm:NAME@VERSION, pypi:NAME==VERSION, or an image. Default: hello.",
        ),
    ] = None,
    server_name: Annotated[str | None, typer.Option(help="The server's name in the fleet.")] = None,
    name: Annotated[str | None, typer.Option(help="The project's name. Default: that of its folder.")] = None,
    invoker: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MEMBER",
            help="Who may call the server on Google Cloud, such as group:mcp-users@example.com. Default: nobody yet."
            " You can repeat the option.",
        ),
    ] = None,
    region: Annotated[str | None, typer.Option(help="The region of the servers. Default: europe-west1.")] = None,
    lock: Annotated[bool, typer.Option("--lock/--no-lock", help="Whether uv writes uv.lock.")] = True,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask no questions, and use the defaults.")] = False,
) -> None:
    """Write a project for a fleet of your own: its stacks' config files, its program, its tests.

    The command overwrites nothing. In an existing project, it writes the missing files.
    """
    from mcpfleet.init import Answers, init, is_interactive

    if not (yes or is_interactive()):
        raise UsageError("There is no terminal to ask on. Give --yes to take the defaults for what no option says.")
    answers = Answers(
        folder=folder,
        name=name,
        server=server,
        server_name=server_name,
        invokers=invoker,
        region=region,
        locks=lock,
    )

    def ask(question: str, default: str) -> str:
        answer: str = typer.prompt(question, default=default, show_default=bool(default))
        return answer.strip()

    init(_out, answers, None if yes else ask, os.environ)


def check(
    cwd: options.Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
) -> None:
    """Check every stack's config file without a cloud, and print all mistakes. Exit code 1 if there is a mistake."""
    from mcpfleet.projects import check

    raise typer.Exit(int(not check(_out, cwd or Path.cwd(), as_json=as_json)))


def local(context: typer.Context) -> None:
    """Deploy a fleet on this machine, verify it, and remove it: up, down, status, logs, proxy, verify, env."""
    from mcpfleet.projects import find_command

    find_command("local", "mcpfleet-local-cloud")(context.args)


def rehearse(context: typer.Context) -> None:
    """Deploy the fleet of a stack for Google Cloud to this machine, verify it, and remove it."""
    from mcpfleet.projects import find_command

    find_command("rehearse", "mcpfleet-local-cloud")(context.args)


# A value that somebody types as an argument is refused without a word of it, not printed by typer.
@secrets.command("set", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def set_secret(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The secret's name in Secret Manager.")],
    stack: Annotated[str | None, typer.Option("--stack", "-s", help="The stack whose servers read it.")] = None,
    project: Annotated[
        str | None, typer.Option(help="The project that holds it. Default: the stack's; without a stack, on Google.")
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Keep the newline at the end of a value that is a single line.")
    ] = False,
    cwd: options.Folder = None,
) -> None:
    """Store a value as the newest version of a secret, and print the line for the fleet.

    The value comes from standard input (mcpfleet secrets set NAME -s STACK < FILE), or from a prompt on a terminal. The
    secret is created if there is none. On Google, it is stored with the login of this machine (gcloud auth
    application-default login); for a stack of the local cloud, on this machine.
    """
    from mcpfleet import secret_manager
    from mcpfleet.google_sources import google_api
    from mcpfleet.terminal import ask_hidden, markup_safe

    if context.args:
        raise UsageError(
            "A value is not given as an argument: the shell's history and the list of processes would have it. Give it"
            " on standard input, or at the prompt; if the argument was a real secret, replace it. Nothing was stored."
        )
    secret_manager.check_name(name)
    root = cwd or Path.cwd()
    location = secret_manager.find_location(root, stack, project)
    if sys.stdin is None:
        raise UsageError("There is no standard input, so there is no value. Nothing was stored.")
    if sys.stdin.isatty():
        value = secret_manager.ask_value(name, ask_hidden)
    else:
        value = secret_manager.read_value(sys.stdin.buffer, is_raw=raw)
    environ, key_file = secret_manager.connect(root, stack, location, os.environ)
    manager = secret_manager.SecretManager(google_api(environ, key_file, location.universe), location, environ)
    version = manager.add_version(name, value)
    _out.print(f"Version {version.number} of the secret {name} is stored in the project {location.project}.")
    if version.is_new_secret:
        _out.print("The secret was created; only those who could read the project's secrets before can read it.")
    if version.enabled_api:
        _out.print("The API secretmanager.googleapis.com was enabled in the project.")
    if value.lost_newline:
        _out.print("The newline at the end of the value was left out; --raw keeps it.")
    _out.print(f"Its line for a server in {markup_safe(f'Pulumi.{stack}.yaml') if stack else 'a fleet'}:")
    _out.print(f"  {markup_safe(secret_manager.fleet_line(name, version.number, value))}")
