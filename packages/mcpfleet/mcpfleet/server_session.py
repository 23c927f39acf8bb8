"""Opens MCP sessions with deployed servers, as `verify`, `call` and `tools` do.

The official SDK's client speaks MCP; the sizes of responses are limited (`mcpfleet.bounds`). Errors of HTTP are kept,
because the SDK replaces them with JSON-RPC errors of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx2
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import (
    METHOD_NOT_FOUND,
    ListPromptsRequest,
    ListResourcesRequest,
    ListResourceTemplatesRequest,
    ListToolsRequest,
    PaginatedRequestParams,
    PaginatedResult,
)
from pydantic import Field

from mcpfleet.auth import SERVERLESS_AUTHORIZATION, IdTokenAuth, IdTokens
from mcpfleet.bounds import MAX_CHECK_BRACKETS, TOTAL_FACTOR, UNCOMPRESSED, ResponseLimit, max_answer_bytes
from mcpfleet.contract import Contract, build_contract
from mcpfleet.diagnosis import diagnose, is_from_server
from mcpfleet.errors import AuthError
from mcpfleet.net import ssl_context
from mcpfleet.stack import DeployedClient, DeployedServer
from mcpfleet.target import Target
from mcpfleet.token_sources import TokenSource
from mcpfleet.tools import Json

MAX_PAGES: Final = 100
"""The most pages of a list that are read."""


def http_client(
    target: Target,
    auth: IdTokenAuth | None,
    seconds: float,
    *,
    bearer_token: str = "",
    errors: list[httpx2.Response] | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> httpx2.AsyncClient:
    """Create an HTTP client for a service.

    Args:
        target: The service.
        auth: The identity; None to send no ID token.
        seconds: The timeout of a request.
        bearer_token: A token that the service itself requires, in addition to Google's; '' for none.
        errors: Collects responses with a status of 300 or more.
        transport: The HTTP transport; the network by default.
    """
    limit_size = ResponseLimit(total=TOTAL_FACTOR * max_answer_bytes(), brackets=MAX_CHECK_BRACKETS)

    async def inspect(response: httpx2.Response) -> None:
        await limit_size(response)
        if errors is not None and response.status_code >= 300:
            errors.append(response)

    hooks: dict[str, list[Callable[..., Any]]] = {"response": [inspect]}
    trust_env = not target.on_this_machine
    return httpx2.AsyncClient(
        auth=auth,
        transport=transport,
        timeout=seconds,
        verify=ssl_context(trust_env),
        trust_env=trust_env,
        headers={**UNCOMPRESSED, **({"authorization": f"Bearer {bearer_token}"} if bearer_token else {})},
        event_hooks=hooks,
    )


@asynccontextmanager
async def open_session(server: DeployedServer, http: httpx2.AsyncClient, mode: str) -> AsyncGenerator[Client]:
    """Open an MCP session on an HTTP client, which is closed with it.

    Args:
        server: The server.
        http: The HTTP client.
        mode: A mode of the SDK's client: `legacy`, `auto`, or a revision of the protocol.
    """

    def get_client(*_: object, **_options: object) -> httpx2.AsyncClient:
        return http

    url = server.target.mcp_url
    if server.is_sse_only:  # its transport opens the client itself
        async with Client(sse_client(url, httpx_client_factory=get_client), mode=mode) as session:
            yield session
        return
    async with http, Client(streamable_http_client(url, http_client=http), mode=mode) as session:
        yield session


async def find_caller(
    service: DeployedServer | DeployedClient, invoker: TokenSource | None, bearer_token: str = ""
) -> tuple[str, IdTokenAuth | None] | str:
    """Find the identity to call a service as.

    Returns:
        The identity for a report, and its auth (None for no ID token); or the reason why nobody here may call.
    """
    audience, header = service.audience, SERVERLESS_AUTHORIZATION
    match service.access:
        case "public":
            return "without a token", None
        case "oauth" | "login" if not bearer_token:
            return "they need a token of its OAuth server; give one with --bearer-file"
        case "oauth" | "login":
            return "with its own token", None
        case "iap" if invoker is not None:
            audience, header = service.program_audience, "Authorization"
            if reason := await _iap_obstacle(invoker, audience):
                return reason
        case _:
            pass
    if invoker is None:
        return "no identity on this machine may call it"
    return "as an invoker", IdTokenAuth(audience, invoker, header=header)


async def _iap_obstacle(source: TokenSource, audience: str) -> str:
    """The reason why an identity cannot get a token that Identity-Aware Proxy accepts; '' if it can."""
    if not audience:
        return "IAP accepts no tokens of programs (access.iap has no programmatic_clients)"
    try:
        token = await IdTokens(source, audience).aget()
    except AuthError as error:
        return str(error)
    return (
        ""
        if audience in token.audience.split()
        else f"IAP requires a token for {audience}, and your identity cannot get one"
    )


def explain_errors(
    server: DeployedServer, auth: IdTokenAuth | None, errors: list[httpx2.Response], bearer_token: str = ""
) -> str | None:
    """Explain HTTP errors that come from in front of the MCP server, or from its own login.

    Returns:
        The cause and the next step; '' if there are only redirects; None if no error can be explained.
    """
    for response in errors:
        if response.is_redirect:
            continue
        if response.status_code == 401 and is_from_server(response.headers):
            if bearer_token:
                return "401: the server itself does not accept its token (--bearer-file)"
            return (
                "401: Google accepted the caller, but the server itself requires a token. Give one with"
                f" mcpfleet verify {server.name} --bearer-file FILE"
            )
        if auth is not None and (
            diagnosis := diagnose(response.status_code, response.headers, server.target, auth.tokens.caller)
        ):
            return str(diagnosis)
    return "" if any(response.is_redirect for response in errors) else None


class _Page(PaginatedResult):
    """One page of any list, as unparsed JSON."""

    tools: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    prompts: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    resources: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    resource_templates: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]], alias="resourceTemplates")


async def read_contract(session: Client) -> Contract:
    """Read everything that a server lists, as the server wrote it.

    Raises:
        ValueError: A list has more than `MAX_PAGES` pages, or is not valid.
        ContractError: The lists contradict each other.
    """
    capabilities = session.server_capabilities
    lists: dict[str, list[Json]] = {"tools": [], "prompts": [], "resources": [], "resourceTemplates": []}
    lists["tools"] = await list_tools(session)
    if capabilities.prompts is not None:
        lists["prompts"] = await _list(session, ListPromptsRequest, lambda page: page.prompts)
    if capabilities.resources is not None:
        lists["resources"] = await _list(session, ListResourcesRequest, lambda page: page.resources)
        try:
            templates = await _list(session, ListResourceTemplatesRequest, lambda page: page.resource_templates)
        except MCPError as error:
            if error.code != METHOD_NOT_FOUND:  # a server with resources needs no templates
                raise
            templates = []
        lists["resourceTemplates"] = templates
    return build_contract(session.instructions, lists)


async def _list(session: Client, request: type[Any], items: Callable[[_Page], list[dict[str, Any]]]) -> list[Json]:
    listed: list[Json] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await session.session.send_request(request(params=PaginatedRequestParams(cursor=cursor)), _Page)
        listed += items(page)
        cursor = page.next_cursor
        if cursor is None:
            return listed
    raise ValueError(f"one of its lists has more than {MAX_PAGES} pages")


class _ToolsPage(PaginatedResult):
    """One page of a tool list, as unparsed JSON."""

    tools: list[dict[str, Any]]


async def list_tools(session: Client) -> list[Json]:
    """List every tool of a server, as the server wrote it.

    Raises:
        ValueError: The list has more than `MAX_PAGES` pages.
    """
    tools: list[Json] = []
    cursor: str | None = None
    for _ in range(MAX_PAGES):
        page = await session.session.send_request(
            ListToolsRequest(params=PaginatedRequestParams(cursor=cursor)), _ToolsPage
        )
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    else:
        raise ValueError(f"its tool list has more than {MAX_PAGES} pages")
    await session.list_tools()  # tells the client which arguments to repeat in headers
    return tools
