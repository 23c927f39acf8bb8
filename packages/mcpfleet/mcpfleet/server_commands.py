"""The commands that speak MCP to a server for people and pipelines: `mcpfleet call` and `mcpfleet tools`."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcpfleet import options
from mcpfleet.errors import McpfleetError, UsageError
from mcpfleet.inert import inert
from mcpfleet.terminal import console, markup_safe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import httpx2

    from mcpfleet.contract import Change, Contract
    from mcpfleet.stack import DeployedServer
    from mcpfleet.token_sources import TokenSource
    from mcpfleet.tool_calls import ToolCall

tools = typer.Typer(no_args_is_help=True, help="Lock what servers list, and show what has changed since.")
_out = console()
_err = console(stderr=True)


def add_server_commands(app: typer.Typer) -> None:
    """Add the commands to those of the command line."""
    app.command()(call)
    app.add_typer(tools, name="tools")


def call(
    server: Annotated[str, typer.Argument(help="The server's name in the fleet, or a URL.")],
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    arguments: Annotated[
        str | None,
        typer.Option(help="The tool's arguments: a JSON object, @FILE, or - for standard input. Default: none."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object.")] = False,
    bearer_file: Annotated[
        Path | None, typer.Option(help="A file with a token for the server itself, in addition to Google's.")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option(metavar="SECONDS", help="How long the call may take. Default: 60.", min=1, max=3600)
    ] = None,
    audience: options.Audience = None,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Call a tool with your identity, and print its answer.

    Exit code 0 for an answer, 3 if the tool answered with an error of its own (isError), 4 for a JSON-RPC error of the
    server, 5 for an HTTP error, and 1 or 2 if no call was made.
    """
    from mcpfleet.reports import read_arguments, read_bearer_token
    from mcpfleet.tool_calls import EXIT_CODES

    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # the outcome has the SDK's errors
    parsed = read_arguments(arguments, sys.stdin.buffer if sys.stdin else None)
    url = server if "://" in server else None
    deployed = options.find_stack(url, audience, stack, outputs, cwd)
    chosen = options.select_server(deployed, None if url else server, url, audience)
    bearer_token = read_bearer_token(bearer_file, [chosen])
    source = (
        options.find_source(deployed, credentials, token_file, token_command, impersonate)
        if chosen.needs_id_token
        else None
    )
    outcome = asyncio.run(call_server(chosen, source, tool, parsed, bearer_token, timeout))
    if as_json:
        _out.print(json.dumps({"server": chosen.name, **outcome.as_json()}, indent=2), markup=False)
    elif outcome.failure is None:
        for line in outcome.text.splitlines():
            _out.print(inert(line), markup=False)
    else:
        _err.print(f"[bold red]Error:[/] {markup_safe(outcome.failure)}")
    raise typer.Exit(EXIT_CODES[outcome.outcome])


async def call_server(
    server: DeployedServer,
    source: TokenSource | None,
    tool: str,
    arguments: Mapping[str, Any],
    bearer_token: str = "",
    limit: float | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> ToolCall:
    """Call one tool of a server.

    Args:
        server: The server.
        source: The identity to call as; None if the server needs no ID token.
        tool: The tool's name.
        arguments: Its arguments.
        bearer_token: A token that the server itself requires, in addition to Google's; '' for none.
        limit: The limit for the whole call in seconds; None for the value of `MCPFLEET_CHECK_SECONDS`.
        transport: The HTTP transport; the network by default.

    Raises:
        McpfleetError: No identity here may call the server.
    """
    from dataclasses import replace

    from mcpfleet.bounds import CHECK_SECONDS, check_seconds
    from mcpfleet.inert import error_line, innermost_error
    from mcpfleet.server_session import explain_errors, find_caller, http_client, list_tools, open_session
    from mcpfleet.tool_calls import ToolCall, call_tool

    caller = await find_caller(server, source, bearer_token)
    if isinstance(caller, str):
        raise McpfleetError(f"The tools of {server.name} cannot be called: {caller}.")
    auth = caller[1]
    if auth is not None:
        await auth.tokens.aget()  # reports a missing login
    seconds = check_seconds() if limit is None else limit
    errors: list[httpx2.Response] = []
    http = http_client(server.target, auth, seconds, bearer_token=bearer_token, errors=errors, transport=transport)
    try:
        async with (
            asyncio.timeout(seconds),
            open_session(server, http, "legacy" if server.is_sse_only else "auto") as session,
        ):
            await list_tools(session)  # tells the client which arguments to repeat in headers
            outcome = await call_tool(session, tool, arguments, errors)
    except TimeoutError:
        bound = CHECK_SECONDS if limit is None else "--timeout"
        outcome = ToolCall(tool, "http_error", f"it did not end within {seconds:g} s ({bound})")
    except Exception as error:  # the session could not be opened
        cause = innermost_error(error)
        if isinstance(cause, McpfleetError):
            raise cause from None
        status = errors[-1].status_code if errors else None
        outcome = ToolCall(tool, "http_error", f"{type(cause).__name__}: {error_line(cause)}", status)
    if outcome.outcome == "http_error" and (text := explain_errors(server, auth, errors, bearer_token)):
        outcome = replace(outcome, text=text)
    return outcome


@tools.command("lock")
def lock_tools(
    servers: options.ServerNames = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND",
            help="A kind of change that verify --locked accepts: additive, description or breaking; none for no kind."
            " You can repeat the option. Default: as before, at first no kind.",
            show_default=False,
        ),
    ] = None,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Write what deployed servers list into tools/SERVER.json, and print what has changed.

    The files have the tools, prompts and resources with their schemas, texts and hashes. Read them as you read code:
    models obey the texts. Commit the files.
    """
    from mcpfleet.contract import CHANGES, Lock, find_changes, find_invisible
    from mcpfleet.locks import read_lock, write_lock

    if unknown := [kind for kind in allow or () if kind not in {*CHANGES, "none"}]:
        raise UsageError(f"--allow {unknown[0]} is no kind of change; available: {', '.join(CHANGES)}, none.")
    folder = cwd or Path.cwd()
    contracts = _fetch_contracts(servers, stack, outputs, cwd, credentials, token_file, token_command, impersonate)
    old_locks = {name: read_lock(folder, name) for name in contracts}
    for name, contract in contracts.items():
        old = old_locks[name]
        allowed = frozenset(allow) - {"none"} if allow else old.allowed if old else frozenset[str]()
        file = write_lock(folder, name, Lock(contract, allowed))
        _out.print(f"[bold]{markup_safe(name)}[/]: {contract.count()} locked in {markup_safe(str(file))}")
        if old is not None:
            _print_changes(find_changes(old.contract, contract), frozenset(CHANGES))
        for entry in find_invisible(contract):
            _out.print(f"  [yellow]![/] {markup_safe(entry)}: it has invisible characters, which models read")


@tools.command("diff")
def diff_tools(
    servers: options.ServerNames = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the changes as one JSON object.")] = False,
    stack: options.StackName = None,
    outputs: options.Outputs = None,
    cwd: options.Folder = None,
    credentials: options.Credentials = None,
    token_file: options.TokenFilePath = None,
    token_command: options.TokenCommandText = None,
    impersonate: options.Impersonate = None,
) -> None:
    """Compare what deployed servers list with tools/SERVER.json. Exit code 1 for a change that the lock doesn't allow.

    A change is breaking (calls that worked may fail, or an annotation changed), additive, or a changed description.
    """
    from dataclasses import asdict

    from mcpfleet.contract import find_changes
    from mcpfleet.locks import require_lock

    folder = cwd or Path.cwd()
    deployed = options.find_stack(None, None, stack, outputs, cwd)
    locks = {server.name: require_lock(folder, server.name) for server in deployed.select_servers(servers or [])}
    contracts = _fetch_contracts(servers, stack, outputs, cwd, credentials, token_file, token_command, impersonate)
    changes = {name: find_changes(locks[name].contract, contract) for name, contract in contracts.items()}
    refused = {name: locks[name].find_refused(found) for name, found in changes.items()}
    if as_json:
        listed = {
            name: [{**asdict(change), "allowed": change not in refused[name]} for change in found]
            for name, found in changes.items()
        }
        _out.print(json.dumps({"ok": not any(refused.values()), "servers": listed}, indent=2), markup=False)
    else:
        for name, found in changes.items():
            _out.print(f"[bold]{markup_safe(name)}[/]: {f'{len(found)} changes' if found else 'as locked'}")
            _print_changes(found, locks[name].allowed)
    raise typer.Exit(int(any(refused.values())))


def _fetch_contracts(
    names: list[str] | None,
    stack: str | None,
    outputs: Path | None,
    folder: Path | None,
    credentials: Path | None,
    token_file: Path | None,
    token_command: str | None,
    impersonate: str | None,
) -> dict[str, Contract]:
    """Read what servers of a stack list, several at a time."""
    from mcpfleet.locks import fetch_contract

    logging.getLogger("mcp").setLevel(logging.CRITICAL)  # the message has the SDK's errors
    deployed = options.find_stack(None, None, stack, outputs, folder)
    chosen = deployed.select_servers(names or [])
    source = (
        options.find_source(deployed, credentials, token_file, token_command, impersonate)
        if any(server.needs_id_token for server in chosen)
        else None
    )

    async def fetch_all() -> list[Contract]:
        return await asyncio.gather(*(fetch_contract(server, source) for server in chosen))

    return dict(zip([server.name for server in chosen], asyncio.run(fetch_all()), strict=True))


def _print_changes(changes: list[Change], allowed: frozenset[str]) -> None:
    for change in changes:
        mark = "[yellow]![/]" if change.kind in allowed else "[red]✗[/]"
        _out.print(f"  {mark} {change.kind}: {markup_safe(change.entry)}: {markup_safe(change.text)}")
