"""The options that several commands share: they select the server and the identity."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mcpfleet.errors import UsageError

if TYPE_CHECKING:
    from mcpfleet.stack import DeployedServer, Stack
    from mcpfleet.token_sources import TokenSource

ServerNames = Annotated[
    list[str] | None, typer.Argument(help="The servers' names in the fleet. Default: all.", show_default=False)
]
Url = Annotated[str | None, typer.Option(help="The URL of a service, or its MCP URL, instead of a server of a stack.")]
Audience = Annotated[
    str | None,
    typer.Option(help="The audience of the ID token. Default: the stack's output, or the URL without its path."),
]
StackName = Annotated[
    str | None,
    typer.Option("--stack", help="The stack. Default: the selected stack, or the one on a checkout's local cloud."),
]
Outputs = Annotated[
    Path | None, typer.Option(help="A file with the stack's outputs, as `pulumi stack output --json` prints them.")
]
Folder = Annotated[Path | None, typer.Option("--cwd", help="The folder with Pulumi.yaml. Default: the current folder.")]
Credentials = Annotated[Path | None, typer.Option(help="The Google credentials file of the identity to use.")]
TokenFilePath = Annotated[
    Path | None, typer.Option("--token-file", help="A file with an ID token, which another program keeps fresh.")
]
TokenCommandText = Annotated[
    str | None,
    typer.Option("--token-command", help="A command that prints an ID token; it runs again for each refresh."),
]
Impersonate = Annotated[
    str | None,
    typer.Option(help="A service account to impersonate; you need roles/iam.serviceAccountTokenCreator on it."),
]


def find_stack(
    url: str | None, audience: str | None, stack: str | None, outputs: Path | None, folder: Path | None
) -> Stack:
    """Read the servers of a stack, or create a stack of one server from a URL.

    Raises:
        McpfleetError: There are no servers.
    """
    from mcpfleet import stack as stacks

    if url is None:
        return stacks.read_stack(outputs, stack, folder)
    if stack or outputs:
        raise UsageError("Use --url, or a stack's --stack or --outputs, not both.")
    server = stacks.server_from_url(url, audience)
    return stacks.Stack(url, {server.name: server})


def select_server(stack: Stack, name: str | None, url: str | None, audience: str | None) -> DeployedServer:
    """Select one server, and set its audience to that of the option.

    Raises:
        UsageError: There is no server of that name, or the stack has several servers and no name is given.
    """
    from dataclasses import replace

    if url is not None:
        (server,) = stack.servers.values()
        return replace(server, name=name or server.name)
    if name is None and len(stack.servers) > 1:
        raise UsageError(f"Name a server: {stack.origin} has {', '.join(stack.servers)}.")
    (server,) = stack.select_servers([name or next(iter(stack.servers))])
    return replace(server, audience=audience or server.audience)


def find_source(
    stack: Stack,
    credentials: Path | None = None,
    token_file: Path | None = None,
    token_command: str | None = None,
    impersonate: str | None = None,
) -> TokenSource:
    """Find the identity: that of an option, or the local cloud's invoker, or this machine's default.

    Raises:
        UsageError: Two options name an identity.
        AuthError: There is no identity, or its file is not valid.
    """
    from mcpfleet.token_sources import Impersonation, TokenCommand, TokenFile, default_source, source_from_file

    if sum(option is not None for option in (credentials, token_file, token_command)) > 1:
        raise UsageError("Use only one of --credentials, --token-file and --token-command.")
    if impersonate and (token_file or token_command):
        raise UsageError(
            "--impersonate needs credentials, not an ID token. Leave out --token-file and --token-command."
        )
    if impersonate:
        return Impersonation(impersonate, credentials or stack.credentials)
    if token_file:
        return TokenFile(token_file)
    if token_command:
        return TokenCommand(token_command)
    if file := credentials or stack.credentials:
        return source_from_file(file)
    return default_source()
