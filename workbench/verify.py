"""Verifies deployed servers as their clients would: who is refused, and that an invoker's MCP calls work.

Nothing here looks at the cloud's own records. Every check is a request to a server's URL with a real token, and the
MCP calls are made by the official SDK's client.
"""

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent, Tool

from mcpfleet.auth import IdTokenAuth
from mcpfleet.errors import AuthError
from mcpfleet.sources import TokenSource, source_from_file
from workbench.background import Place
from workbench.phases import Phases, SetupError

LEGACY: Final = "legacy"
MODERN: Final = "2026-07-28"
"""Both protocol eras that the SDK's client speaks: the `initialize` handshake, and the sessionless revision."""

_NAMES: Final = ("ada", "bob", "deployer")
_DOMAIN: Final = "mcpfleet.test"
_TIMEOUT: Final = 60.0
_PING: Final = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
_HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@dataclass(frozen=True)
class People:
    """Those who call, as the tests and `./dev up` need them.

    Attributes:
        invoker: May call; None where nobody of this machine may.
        stranger: Exists, and may not; None where everybody of this machine may.
        elsewhere: Can have a token for any audience.
    """

    invoker: TokenSource | None
    stranger: TokenSource | None
    elsewhere: TokenSource

    @classmethod
    def of(cls, place: Place) -> "People":
        """Those whose credential files the local cloud wrote."""
        ada, bob, deployer = (source_from_file(place.credentials / f"{name}.json") for name in _NAMES)
        return cls(invoker=ada, stranger=bob, elsewhere=deployer)

    def of_server(self, invokers: Container[str]) -> "People":
        """The same people as a fleet's *invokers* make them: it may name another, both, or nobody."""
        everybody = f"domain:{_DOMAIN}" in invokers
        may: list[TokenSource] = []
        may_not: list[TokenSource] = []
        for name, source in zip(_NAMES, (self.invoker, self.stranger), strict=False):
            if source is not None:
                (may if everybody or f"user:{name}@{_DOMAIN}" in invokers else may_not).append(source)
        return replace(self, invoker=next(iter(may), None), stranger=next(iter(may_not), None))


@dataclass
class Report:
    """What was seen at one server.

    Attributes:
        server: Its name in the fleet.
        passed: The checks that held, in words.
        failed: Those that did not, each with what was seen instead.
    """

    server: str
    passed: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])


def verify(phases: Phases, place: Place, servers: Mapping[str, Mapping[str, Any]]) -> None:
    """Check every server of *servers* (the stack's output of that name), side by side.

    Raises:
        SetupError: with each check that failed.
    """
    with phases.phase("Verify") as step:
        try:
            people = People.of(place)
        except AuthError as error:
            raise SetupError(str(error), "run ./dev up: the local cloud writes its credential files anew.") from None
        reports = asyncio.run(_all(people, servers))
        failed = [f"{report.server}: {line}" for report in reports for line in report.failed]
        if failed:
            raise SetupError(
                "What is deployed does not behave as it must:\n  " + "\n  ".join(failed),
                "read the server's log with ./dev logs SERVER.",
            )
        step.note(f"{sum(len(report.passed) for report in reports)} checks of {len(reports)} servers passed")


async def _all(people: People, servers: Mapping[str, Mapping[str, Any]]) -> list[Report]:
    return await asyncio.gather(
        *(check(name, server, people.of_server(server["invokers"])) for name, server in servers.items())
    )


async def check(
    name: str, server: Mapping[str, Any], people: People, transport: httpx2.AsyncBaseTransport | None = None
) -> Report:
    """Check one server.

    Args:
        name: Its name in the fleet.
        server: Its part of the stack's outputs.
        people: Who calls.
        transport: What carries the requests; the network where it is not given.
    """
    report = Report(name)
    url, audience = str(server["mcp_url"]), str(server["audience"])
    refusals: list[tuple[str, IdTokenAuth | None, int]] = [
        ("without a token: 403", None, 403),
        ("with a token for another audience: 401", IdTokenAuth("https://another.example", people.elsewhere), 401),
    ]
    if people.stranger is not None:
        refusals.append(("as a member who is no invoker: 403", IdTokenAuth(audience, people.stranger), 403))
    for words, auth, expected in refusals:
        await _note(report, words, _refused(_http(auth, transport), url, expected))
    for mode in (LEGACY, MODERN) if people.invoker is not None else ():
        redirects: list[str] = []
        http = _http(IdTokenAuth(audience, people.invoker), transport, redirects)
        calls = _calls(http, url, mode, redirects)
        await _note(report, f"as an invoker, protocol {mode}: tools listed and one called, no redirect", calls)
    return report


async def _note(report: Report, words: str, seen: Awaitable[str | None]) -> None:
    try:
        wrong = await seen
    except Exception as error:  # whatever went wrong on the way is the finding
        wrong = f"{type(error).__name__}: {_innermost(error)}"
    if wrong is None:
        report.passed.append(words)
    else:
        report.failed.append(f"{words}: {wrong}")


def _http(
    auth: IdTokenAuth | None, transport: httpx2.AsyncBaseTransport | None, redirects: list[str] | None = None
) -> httpx2.AsyncClient:
    async def look(response: httpx2.Response) -> None:
        if response.is_redirect and redirects is not None:
            redirects.append(f"{response.status_code} to {response.headers.get('location')}")

    hooks: dict[str, list[Callable[..., Any]]] = {"response": [look]}
    return httpx2.AsyncClient(auth=auth, transport=transport, timeout=_TIMEOUT, trust_env=False, event_hooks=hooks)


async def _refused(client: httpx2.AsyncClient, url: str, expected: int) -> str | None:
    async with client as http:
        answer = await http.post(url, json=_PING, headers=_HEADERS)
    return None if answer.status_code == expected else f"the answer was {answer.status_code}"


async def _calls(client: httpx2.AsyncClient, url: str, mode: str, redirects: list[str]) -> str | None:
    try:
        wrong = await _called(client, url, mode)
    except Exception as error:
        # What fails after a redirect fails because of it.
        if not redirects:
            raise
        wrong = str(_innermost(error))
    return f"redirected: {redirects[0]}" if redirects else wrong


async def _called(client: httpx2.AsyncClient, url: str, mode: str) -> str | None:
    async with client as http, Client(streamable_http_client(url, http_client=http), mode=mode) as session:
        spoken = session.protocol_version
        if (spoken == MODERN) != (mode == MODERN):
            return f"the protocol spoken was {spoken}"
        chosen = callable_tool((await session.list_tools()).tools)
        if chosen is None:
            return "it has no tool that can be called with numbers and words"
        result = await session.call_tool(*chosen)
    said = " ".join(part.text for part in result.content if isinstance(part, TextContent))
    return f"the tool {chosen[0]} failed: {said}" if result.is_error else None


def callable_tool(tools: Iterable[Tool]) -> tuple[str, dict[str, Any]] | None:
    """A tool with arguments for it: one that says it only reads where there is one, never one that says it destroys."""
    harmless = [tool for tool in tools if not _destroys(tool)]
    for tool in sorted(harmless, key=lambda tool: not _reads(tool)):
        given = arguments(tool.input_schema)
        if given is not None:
            return tool.name, given
    return None


def _reads(tool: Tool) -> bool:
    return tool.annotations is not None and tool.annotations.read_only_hint is True


def _destroys(tool: Tool) -> bool:
    # A tool that says nothing is called: most say nothing, and a server has to be tried.
    return not _reads(tool) and tool.annotations is not None and tool.annotations.destructive_hint is True


def arguments(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments that satisfy a tool's schema, where its required ones are plain values without conditions."""
    if not _PLAIN_TOOL.issuperset(schema):
        return None
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not isinstance(required, list):
        return None
    described = cast("Mapping[str, Any]", properties)
    given: dict[str, Any] = {}
    for name in cast("list[Any]", required):
        value = _sample(described.get(name)) if isinstance(name, str) else None
        if value is None:
            return None
        given[name] = value
    return given


# Keywords that do not narrow what may be given; of a tool's schema, and of one argument's.
_REMARKS: Final = {"$schema", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly"}
_PLAIN_TOOL: Final = {*_REMARKS, "$defs", "type", "properties", "required", "additionalProperties"}
_SAMPLES: Final[Mapping[str, Any]] = {"integer": 1, "number": 1.5, "string": "mcpfleet", "boolean": True}


def _sample(schema: object) -> Any:
    """A value that satisfies one argument's schema, or None."""
    if not isinstance(schema, Mapping):
        return None
    described = cast("Mapping[str, Any]", schema)
    if set(described) - _REMARKS != {"type"} or not isinstance(described["type"], str):
        return None
    return _SAMPLES.get(described["type"])


def _innermost(error: BaseException) -> BaseException:
    """A task group wraps what went wrong within it."""
    if isinstance(error, BaseExceptionGroup):
        return _innermost(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error
