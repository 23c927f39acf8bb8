"""The options that several commands share: which server, and as whom."""

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
    """The servers to choose from: the stack's, or the one of a URL.

    Raises:
        McpfleetError: There are none.
    """
    from mcpfleet import stack as stacks

    if url is None:
        return stacks.read(outputs, stack, folder)
    if stack or outputs:
        raise UsageError("Give --url, or a stack's --stack or --outputs, not both.")
    server = stacks.from_url(url, audience)
    return stacks.Stack(url, {server.name: server})


def one_server(stack: Stack, name: str | None, url: str | None, audience: str | None) -> DeployedServer:
    """The server that is meant, with the audience that is asked for.

    Raises:
        UsageError: There is none of that name, or the name is missing.
    """
    from dataclasses import replace

    if url is not None:
        (server,) = stack.servers.values()
        return replace(server, name=name or server.name)
    if name is None and len(stack.servers) > 1:
        raise UsageError(f"Which server? {stack.origin} has: {', '.join(stack.servers)}.")
    (server,) = stack.chosen([name or next(iter(stack.servers))])
    return replace(server, audience=audience or server.audience)


def find_source(
    stack: Stack,
    credentials: Path | None = None,
    token_file: Path | None = None,
    token_command: str | None = None,
    impersonate: str | None = None,
) -> TokenSource:
    """The identity: the option's, or the local cloud's invoker, or that of this machine.

    Raises:
        UsageError: Two are given.
        AuthError: There is none, or it is of no use.
    """
    from mcpfleet.token_sources import Impersonation, TokenCommand, TokenFile, default_source, source_from_file

    if sum(one is not None for one in (credentials, token_file, token_command)) > 1:
        raise UsageError("Give one of --credentials, --token-file and --token-command, not both.")
    if impersonate and (token_file or token_command):
        raise UsageError("--impersonate needs credentials; an ID token alone cannot ask for another's.")
    if impersonate:
        return Impersonation(impersonate, credentials or stack.credentials)
    if token_file:
        return TokenFile(token_file)
    if token_command:
        return TokenCommand(token_command)
    if found := credentials or stack.credentials:
        return source_from_file(found)
    return default_source()
