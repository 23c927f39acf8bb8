"""`mcpfleet config`: what it prints and says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast, get_args

from rich.console import Console

from mcpfleet import install as files
from mcpfleet.clients import Client, Launch, Via
from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.stack import Stack
from mcpfleet.system import command_of
from mcpfleet.terminal import marked_up

Entries = Mapping[str, Mapping[str, Any]]

_COMMAND: Final = "mcpfleet config"


def wishes(
    client: Client,
    stack: Stack,
    names: list[str],
    via: str,
    port: int,
    credentials: Path | None = None,
    impersonate: str | None = None,
) -> Entries:
    """The entries of the servers that are asked for, by name.

    Raises:
        UsageError: There is no such server or way, or the client does not take it.
    """
    if via not in get_args(Via):
        raise UsageError(f"--via {via}: choose one of {', '.join(get_args(Via))}.")
    identity: list[str] = []
    if file := credentials or stack.credentials:
        identity += ["--credentials", str(file.resolve())]
    if impersonate:
        identity += ["--impersonate", impersonate]
    launch = Launch.here(tuple(identity))
    # The stack's own ports, so that its `proxy_command` and this agree.
    return {
        server.name: client.entry(server, cast("Via", via), launch, server.output.get("proxy_port") or port + number)
        for number, server in enumerate(stack.chosen(names))
    }


def print_servers(out: Console, client: Client, entries: Entries) -> None:
    """Print the configuration, and nothing else: it can be piped into a file."""
    # A file that a Windows console's output is piped into is not UTF-8, and clients read no other.
    ascii_only = not out.encoding.startswith("utf")
    text = json.dumps({client.key: entries}, indent=2, ensure_ascii=ascii_only)
    out.print("\n".join(inert(line) for line in text.split("\n")), markup=False)


def install_servers(
    out: Console, client: Client, file: Path, entries: Entries, *, force: bool, elsewhere: bool = False
) -> None:
    """Merge the configuration into a file, which may lie `elsewhere` than the client's; say how to undo it."""
    change = files.install(file, client.key, entries, force=force)
    closed = [why for name in entries if (why := client.shut_out(change.settings, name))]
    if not change.names:
        out.print(f"{marked_up(str(file))} has them already; nothing was changed.")
        _say_closed(out, client, closed)
        return
    out.print(f"[bold]{marked_up(client.title)}[/]: {marked_up(', '.join(change.names))} in {marked_up(str(file))}")
    _say_backup(out, change)
    undo = [client.name, "--remove", *([f"--file={file}"] if elsewhere else []), "--", *change.names]
    out.print(inert(f"{client.after} Undo with: {_COMMAND} {command_of(undo)}"), markup=False)
    _say_closed(out, client, closed)


def remove_servers(out: Console, client: Client, places: Sequence[Path], names: list[str]) -> None:
    """Take servers out of a client's files, and say which."""
    changes = [files.remove(file, client.key, names) for file in places]
    for change in changes:
        if change.names:
            gone = marked_up(", ".join(change.names))
            out.print(f"[bold]{marked_up(client.title)}[/]: {gone} removed from {marked_up(str(change.file))}")
            _say_backup(out, change)
    if not any(change.names for change in changes):
        out.print(f"{marked_up(str(places[0]))} has none of them; nothing was changed.")


def _say_closed(out: Console, client: Client, closed: list[str]) -> None:
    for why in closed:
        out.print(f"[yellow]![/] {marked_up(client.title)}: {marked_up(why)}")


def _say_backup(out: Console, change: files.Change) -> None:
    if change.backup is not None:
        out.print(f"The file as it was: {marked_up(str(change.backup))}")
