"""The commands of a user's project: `mcpfleet init`, `check` and `local`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from mcpfleet import options
from mcpfleet.errors import UsageError
from mcpfleet.terminal import console

_out = console()


def add_project_commands(app: typer.Typer) -> None:
    """Add the commands to those of the command line."""
    app.command()(init)
    app.command()(check)
    # Whatever follows is the business of the other distribution, its help too.
    others: dict[str, object] = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(context_settings=others, options_metavar="")(local)


def init(
    folder: Annotated[Path, typer.Argument(help="The folder of the project. Default: the current folder.")] = Path(),
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
