"""`python -m mcpfleet_local_cloud serve --state DIR --port N`."""

import logging
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mcpfleet_local_cloud.server import StartError, serve
from mcpfleet_local_cloud.state.folder import Settings, StateLockedError

app = typer.Typer(help="The part of Google Cloud that mcpfleet uses, on this machine.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Make typer keep `serve` as a subcommand."""


@app.command("serve")
def serve_command(
    state: Annotated[Path, typer.Option(help="The cloud's state directory; created if it does not exist.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="The control plane's port on 127.0.0.1.")] = 8470,
    credentials: Annotated[
        Path | None, typer.Option(help="The folder for the credential files. Default: next to the state directory.")
    ] = None,
) -> None:
    """Serve the cloud in the foreground until SIGTERM. The containers of its services keep running."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(Settings(state=state.resolve(), port=port), credentials, lambda line: print(line, flush=True))
    except (StartError, StateLockedError) as refusal:
        _exit_with_error(str(refusal), refusal.next_step)
    except OSError as refusal:
        _exit_with_error(
            f"Cannot use the state directory {state}: {refusal}.", "make it writable, or choose another --state."
        )


def _exit_with_error(error: str, next_step: str) -> NoReturn:
    # The program that started this one (`./dev`) looks for lines that begin with these two words.
    typer.echo(f"error: {error}\nnext: {next_step}", err=True)
    raise typer.Exit(1)


if __name__ == "__main__":
    app()
