"""The output of `mcpfleet config`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast, get_args

from rich.console import Console

from mcpfleet import client_files as files
from mcpfleet.desktop_clients import DesktopClient, Launch, Via
from mcpfleet.errors import UsageError
from mcpfleet.inert import inert
from mcpfleet.stack import Stack
from mcpfleet.system import join_command
from mcpfleet.terminal import markup_safe

Entries = Mapping[str, Mapping[str, Any]]

_COMMAND: Final = "mcpfleet config"


def create_entries(
    client: DesktopClient,
    stack: Stack,
    names: list[str],
    via: str,
    port: int,
    credentials: Path | None = None,
    impersonate: str | None = None,
) -> Entries:
    """Create a client's entries for servers, by name.

    Raises:
        UsageError: There is no such server or value of `--via`, or the client does not support it.
    """
    if via not in get_args(Via):
        raise UsageError(f"--via {via}: choose one of {', '.join(get_args(Via))}.")
    identity: list[str] = []
    if file := credentials or stack.credentials:
        identity += ["--credentials", str(file.resolve())]
    if impersonate:
        identity += ["--impersonate", impersonate]
    launch = Launch.current(tuple(identity))
    # The stack's own ports, so that its `proxy_command` uses the same ones.
    return {
        server.name: client.create_entry(
            server, cast("Via", via), launch, server.output.get("proxy_port") or port + number
        )
        for number, server in enumerate(stack.select_servers(names))
    }


def print_servers(out: Console, client: DesktopClient, entries: Entries) -> None:
    """Print the configuration and nothing else, so that it can be redirected into a file."""
    # On Windows, a redirected file may not be UTF-8, the only encoding that clients read.
    ascii_only = not out.encoding.startswith("utf")
    text = json.dumps({client.key: entries}, indent=2, ensure_ascii=ascii_only)
    out.print("\n".join(inert(line) for line in text.split("\n")), markup=False)


def install_servers(
    out: Console, client: DesktopClient, file: Path, entries: Entries, *, force: bool, is_custom_file: bool = False
) -> None:
    """Add the entries to a client's file, and print the command that undoes it.

    Args:
        out: The console.
        client: The client.
        file: The file to change.
        entries: The entries, by name.
        force: Whether to replace entries that mcpfleet did not write.
        is_custom_file: Whether the file is not the client's usual one.
    """
    change = files.install(file, client.key, entries, force=force)
    warnings = [warning for name in entries if (warning := client.blocked_reason(change.settings, name))]
    if not change.names:
        out.print(f"{markup_safe(str(file))} already has these servers; nothing was changed.")
        _print_warnings(out, client, warnings)
        return
    out.print(
        f"[bold]{markup_safe(client.title)}[/]: {markup_safe(', '.join(change.names))} in {markup_safe(str(file))}"
    )
    _print_backup(out, change)
    undo = [client.name, "--remove", *([f"--file={file}"] if is_custom_file else []), "--", *change.names]
    out.print(inert(f"{client.reload_step} Undo with: {_COMMAND} {join_command(undo)}"), markup=False)
    _print_warnings(out, client, warnings)


def remove_servers(out: Console, client: DesktopClient, paths: Sequence[Path], names: list[str]) -> None:
    """Remove servers from a client's files, and print which."""
    changes = [files.remove(file, client.key, names) for file in paths]
    for change in changes:
        if change.names:
            removed = markup_safe(", ".join(change.names))
            out.print(f"[bold]{markup_safe(client.title)}[/]: {removed} removed from {markup_safe(str(change.file))}")
            _print_backup(out, change)
    if not any(change.names for change in changes):
        out.print(f"{markup_safe(str(paths[0]))} has none of these servers; nothing was changed.")


def _print_warnings(out: Console, client: DesktopClient, warnings: list[str]) -> None:
    for warning in warnings:
        out.print(f"[yellow]![/] {markup_safe(client.title)}: {markup_safe(warning)}")


def _print_backup(out: Console, change: files.Change) -> None:
    if change.backup is not None:
        out.print(f"Backup: {markup_safe(str(change.backup))}")
