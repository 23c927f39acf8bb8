"""The command line of `mcpfleet rehearse`; an entry point of the group `mcpfleet.commands`."""

from pathlib import Path
from typing import Annotated

import typer

from mcpfleet.terminal import configure_streams
from mcpfleet_local_cloud.commands.cli import errors_shown
from mcpfleet_local_cloud.commands.phases import Phases

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def command(
    stack: Annotated[str, typer.Option("--stack", "-s", metavar="NAME", help="The stack of Pulumi.NAME.yaml.")],
    skip: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="A part of the fleet to leave out, such as servers.NAME. You can repeat it."),
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Values of secrets, NAME: VALUE in YAML. Default: dummy values."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the fleet deployed at the end.")] = False,
    down: Annotated[bool, typer.Option("--down", help="Only remove a fleet that --keep left.")] = False,
) -> None:
    """Deploy a stack's fleet to a local cloud of its own, verify it, and remove it.

    The stack's config file is for Google Cloud: the command replaces its project, its principals and its base images,
    and gives its secrets dummy values. It contacts no service of Google, and uses neither your Google credentials nor
    your Pulumi login. It shows what changes against the last rehearsal.
    """
    from mcpfleet_local_cloud.commands.rehearsal.rehearse import Options, rehearse, remove

    if down:
        remove(Phases(), stack)
        return
    rehearse(Phases(), Options(stack=stack, skip=skip or (), secrets=secrets, keeps=keep))


def rehearse(words: list[str]) -> None:
    """Run the command with the arguments *words*, and exit."""
    configure_streams()
    with errors_shown(Phases()):
        app(words or ["--help"], prog_name="mcpfleet rehearse")
