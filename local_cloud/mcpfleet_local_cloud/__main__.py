"""`python -m mcpfleet_local_cloud serve --state DIR --port N`."""

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mcpfleet_local_cloud.server import StartError, serve
from mcpfleet_local_cloud.state.folder import Settings, StateLockedError

app = typer.Typer(help="The part of Google Cloud that mcpfleet touches, on this machine.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Keep `serve` a command of its own: there will be more."""


@app.command("serve")
def serve_command(
    state: Annotated[Path, typer.Option(help="The directory that is this cloud; made where it is missing.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The control plane's port on 127.0.0.1.")] = 8470,
    credentials: Annotated[
        Path | None, typer.Option(help="The folder for the credential files; beside the state by default.")
    ] = None,
) -> None:
    """Serve the cloud in the foreground until SIGTERM; its services' containers run on."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(Settings(state=state.resolve(), port=port), credentials, lambda line: print(line, flush=True))
    except (StartError, StateLockedError) as refusal:
        _give_up(str(refusal), refusal.next_step)
    except OSError as refusal:
        _give_up(f"The state in {state} cannot be used: {refusal}.", "make it writable, or give another --state.")


def _give_up(error: str, next_step: str) -> NoReturn:
    # Whoever started us (`./dev`) looks for these two words at the beginnings of lines.
    typer.echo(f"error: {error}\nnext: {next_step}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
