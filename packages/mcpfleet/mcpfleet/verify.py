"""Verifies deployed servers as their clients would: who is refused, and that an invoker's MCP calls work.

Nothing here looks at the cloud's own records. Every check is a request to a server's URL with a real token, and the
MCP calls are made by the official SDK's client. `mcpfleet verify` and `./dev up` are both this.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from mcp.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from mcp_types import ListToolsRequest, PaginatedRequestParams, PaginatedResult, TextContent

from mcpfleet import access_checks, client_checks
from mcpfleet.access_checks import HEADERS, PING, AccessCheck, Callers
from mcpfleet.auth import SERVERLESS_AUTHORIZATION, IdTokenAuth, IdTokens
from mcpfleet.bounds import AS_IT_IS, CHECK_SECONDS, FEW_BRACKETS, IN_ALL, Bound, check_seconds, max_answer
from mcpfleet.diagnosis import diagnose, is_the_servers_own
from mcpfleet.errors import AuthError
from mcpfleet.inert import in_a_line, innermost
from mcpfleet.net import trusted
from mcpfleet.stack import DeployedClient as Caller
from mcpfleet.stack import DeployedServer
from mcpfleet.token_sources import TokenSource
from mcpfleet.tools import Json, callable_tool, repeatable

LEGACY: Final = "legacy"
MODERN: Final = "2026-07-28"
"""Both protocol eras that the SDK's client speaks: the `initialize` handshake, and the sessionless revision."""

ANY_TOOL: Final[tuple[str, Mapping[str, Any]]] = ("*", {})
"""Instead of a tool's name: any that says that it only reads."""

_SAMPLES: Final = 10
_PAGES: Final = 100
"""Pages of a list of tools that are read at most."""


@dataclass(frozen=True)
class CheckOptions:
    """What is asked for beyond what holds for every server.

    Attributes:
        tools: Names that must be listed.
        call: A tool to call, and its arguments; `ANY_TOOL` for one that says that it only reads; None for none.
        bearer: A token that the server itself wants, beside Google's; '' for none.
        seconds: How long one check may take; None for what `MCPFLEET_CHECK_SECONDS` says. A client, too, heeds it.
    """

    tools: Sequence[str] = ()
    call: tuple[str, Mapping[str, Any]] | None = None
    bearer: str = field(default="", repr=False)
    seconds: float | None = None


@dataclass
class Report:
    """What was seen at one server or client.

    Attributes:
        server: Its name in the fleet, or a client's.
        passed: The checks that held, in words.
        failed: Those that did not, each with what was seen instead.
        warned: What a client may stumble over, or its owner should know, though nothing is broken.
        unasked: What was not looked at, each with the reason.
        first_ms: Milliseconds to the first answer, with the start of an instance where none ran.
        median_ms: Milliseconds of a request after that.
    """

    server: str
    passed: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    warned: list[str] = field(default_factory=list[str])
    unasked: list[str] = field(default_factory=list[str])
    first_ms: float | None = None
    median_ms: float | None = None


async def check(
    service: DeployedServer | Caller,
    callers: Callers,
    wishes: CheckOptions | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Check one server or client.

    Args:
        service: What is deployed.
        callers: Who calls.
        wishes: What else is asked for.
        transport: What carries the requests; the network where it is not given.
        clock: Seconds.
    """
    wishes = wishes or CheckOptions()
    if isinstance(service, DeployedServer):
        one = _OfServer(service, callers, wishes, transport, clock)
    else:
        one = _OfClient(service, callers, wishes, transport)
    await one.run()
    return one.report


class _Check:
    """What holds for every service: whom it refuses, and as whom it is asked."""

    _bearer: str = ""
    """A token of the service's own."""

    def __init__(
        self,
        service: DeployedServer | Caller,
        callers: Callers,
        wishes: CheckOptions,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        self.report = Report(service.name)
        self._wishes = wishes
        self._seconds = check_seconds() if wishes.seconds is None else wishes.seconds
        self._service = service
        self._callers = callers
        self._transport = transport
        found = (
            access_checks.of_server(service)
            if isinstance(service, DeployedServer)
            else access_checks.of_client(service)
        )
        self._doors: list[AccessCheck] = [*found]

    async def run(self) -> None:
        if self._service.access == "public":
            self._warn(self._open())
        for attempt in access_checks.attempts(self._service, self._callers, time.time()):
            await self._note(lambda words=attempt.words: words, self._refused(attempt))
        self.report.unasked += access_checks.unasked(self._service, self._callers)

    async def _entry(self, what: str) -> tuple[str, IdTokenAuth | None] | None:
        """As whom *what* is asked, in words and with which token; None, and the reason said, where nobody here may."""
        invoker, audience, header = self._callers.invoker, self._service.audience, SERVERLESS_AUTHORIZATION
        match self._service.access:
            case "public":
                return "without a token", None
            case "oauth" if not self._bearer:
                why = "they need a token of its own OAuth (--bearer-file)"
            case "oauth":
                return "with its own token", None
            case "iap" if invoker is not None:
                audience, header = self._service.program_audience, "Authorization"
                why = await _not_for(invoker, audience)
            case _:
                why = "nobody here may call it" if invoker is None else ""
        if why or invoker is None:
            self.report.unasked.append(f"{what}: not asked; {why}")
            return None
        return "as an invoker", IdTokenAuth(audience, invoker, header=header)

    def _open(self) -> str:
        reason = self._service.output.get("public_reason") or "the stack does not say why"
        calls = self._service.calls if isinstance(self._service, Caller) else ()
        through = f", and through it {', '.join(calls)} as its account" if calls else ""
        return f"it is public: anybody may call it{through} ({reason})"

    def _warn(self, words: str) -> None:
        if words not in self.report.warned:  # once for both protocols
            self.report.warned.append(words)

    async def _refused(self, attempt: access_checks.Attempt) -> str | None:
        async with self._http(None, stranger=True) as http:
            return await access_checks.refused(http, self._doors, attempt)

    async def _note(self, words: Callable[[], str], seen: Awaitable[str | None]) -> None:
        """Put down a check; its words are those that hold once it has been made."""
        try:
            async with asyncio.timeout(self._seconds):
                wrong = await seen
        except TimeoutError:
            bound = CHECK_SECONDS if self._wishes.seconds is None else "--timeout"
            wrong = f"it was not over after {self._seconds:g} s ({bound})"
        except Exception as error:  # whatever went wrong on the way is the finding
            cause = innermost(error)
            wrong = f"{type(cause).__name__}: {in_a_line(cause)}"
        if wrong is None:
            self.report.passed.append(words())
        else:
            self.report.failed.append(f"{words()}: {wrong}")

    def _http(
        self, auth: IdTokenAuth | None, seen: list[httpx2.Response] | None = None, *, stranger: bool = False
    ) -> httpx2.AsyncClient:
        """An HTTP client, which shows the service's own token too unless it asks as a *stranger*."""
        own = {"authorization": f"Bearer {self._bearer}"} if self._bearer and not stranger else {}
        bound = Bound(in_all=IN_ALL * max_answer(), brackets=FEW_BRACKETS)

        async def look(response: httpx2.Response) -> None:
            await bound(response)
            if seen is not None and response.status_code >= 300:
                seen.append(response)

        hooks: dict[str, list[Callable[..., Any]]] = {"response": [look]}
        trust_env = not self._service.target.on_this_machine
        return httpx2.AsyncClient(
            auth=auth,
            transport=self._transport,
            timeout=self._seconds,
            verify=trusted(trust_env),
            trust_env=trust_env,
            headers={**AS_IT_IS, **own},
            event_hooks=hooks,
        )


class _OfClient(_Check):
    """A client's further checks: that it answers its invokers, and reaches the servers that it is given.

    It is an app that we know nothing of, whose answers may cost and act: so it is asked by GET only, whether it is well
    and, if it says so (`mcpfleet.reach`), what of its servers it reaches.
    """

    def __init__(
        self, client: Caller, callers: Callers, wishes: CheckOptions, transport: httpx2.AsyncBaseTransport | None
    ) -> None:
        super().__init__(client, callers, wishes, transport)
        self._client = client

    async def run(self) -> None:
        await super().run()
        entry = await self._entry("its answers, and whether it reaches its servers")
        if entry is None:
            return
        _, auth = entry
        lines = {"ok": self.report.passed, "bad": self.report.failed, "skip": self.report.unasked}
        async with self._http(auth) as http:
            seconds = self._wishes.seconds or min(self._seconds, client_checks.SECONDS)
            for seen in await client_checks.seen_of(self._client, http, auth, seconds):
                lines[seen.kind].append(seen.words)


class _OfServer(_Check):
    """A server's further checks: that its invokers' calls work."""

    def __init__(
        self,
        server: DeployedServer,
        callers: Callers,
        wishes: CheckOptions,
        transport: httpx2.AsyncBaseTransport | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(server, callers, wishes, transport)
        self._server = server
        self._url = server.target.mcp_url
        self._bearer = wishes.bearer
        self._streamable = not server.sse_alone
        self._clock = clock
        self._called_tool = ""
        self._did = ""

    async def run(self) -> None:
        if self._server.inside and await self._only_inside():
            self.report.passed.append("from outside its network: 404")
            self.report.unasked.append(
                "who may call it, and its calls: not asked; that has to come from the project's networks"
            )
            return
        await super().run()
        if entry := await self._entry("its calls"):
            await self._check_calls(*entry)

    async def _only_inside(self) -> bool:
        try:
            async with asyncio.timeout(self._seconds), self._http(None, stranger=True) as http:
                return {(await access_checks.ask(http, door, {})).status_code for door in self._doors} == {404}
        except (TimeoutError, httpx2.HTTPError):
            return False  # every check will say why

    async def _check_calls(self, who: str, auth: IdTokenAuth | None) -> None:
        began = self._clock()
        for mode in (LEGACY, MODERN) if self._streamable else (LEGACY,):
            self._did = "tools listed"
            start = f"{who}, protocol {mode}: "
            await self._note(lambda start=start: f"{start}{self._did}, no redirect", self._calls(auth, mode, began))
            failed = self.report.failed
            if mode == MODERN and len(failed) == 1 and failed[0].startswith(start) and await self._is_older(auth):
                # Most servers in the world are older than the revision, and clients of both are served.
                failed.pop()
                self._warn(f"it does not speak {MODERN}; clients fall back to the revision before")
        if self.report.first_ms is not None and self._streamable:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._look_closer(auth)
            except (TimeoutError, httpx2.HTTPError) as error:
                self._warn(f"how long an answer takes was not found out: {type(error).__name__}: {error}")

    async def _is_older(self, auth: IdTokenAuth | None) -> bool:
        """Whether a client that asks first which revisions there are (mode `auto`) is served, and by an older one.

        In which words a server refuses a revision that it does not know, nobody says: that client need not know either.
        """
        try:
            async with asyncio.timeout(self._seconds), self._client(self._http(auth), "auto") as session:
                await session.list_tools()
                return session.protocol_version != MODERN
        except Exception:  # then what was seen before stands
            return False

    @asynccontextmanager
    async def _client(self, client: httpx2.AsyncClient, mode: str) -> AsyncGenerator[Client]:
        """A client of the SDK over an HTTP client, which it closes."""

        def given(*_: object, **_more: object) -> httpx2.AsyncClient:
            return client

        if not self._streamable:  # its transport opens the client itself
            async with Client(sse_client(self._url, httpx_client_factory=given), mode=mode) as session:
                yield session
            return
        async with client, Client(streamable_http_client(self._url, http_client=client), mode=mode) as session:
            yield session

    async def _calls(self, auth: IdTokenAuth | None, mode: str, began: float) -> str | None:
        seen: list[httpx2.Response] = []
        try:
            wrong = await self._called(self._http(auth, seen), mode, began)
        except Exception as error:
            # What fails after a refusal or a redirect fails because of it.
            wrong = self._explained(auth, seen)
            if wrong is None:
                raise
            del error
        redirected = [one for one in seen if one.is_redirect]
        if redirected:
            return f"redirected: {redirected[0].status_code} to {redirected[0].headers.get('location')}"
        return wrong

    def _explained(self, auth: IdTokenAuth | None, seen: list[httpx2.Response]) -> str | None:
        for response in seen:
            if response.is_redirect:
                continue
            if response.status_code == 401 and is_the_servers_own(response.headers):
                return self._wants_a_token()
            if auth is not None:
                target, caller = self._server.target, auth.tokens.caller
                if found := diagnose(response.status_code, response.headers, target, caller):
                    return str(found)
        return "" if any(response.is_redirect for response in seen) else None

    def _wants_a_token(self) -> str:
        if self._bearer:
            return "401: the server itself does not accept its token (--bearer-file)"
        return (
            "401: the server itself wants a token of its own; Google has let the caller in. Give it with"
            f" mcpfleet verify {self._server.name} --bearer-file FILE"
        )

    async def _called(self, client: httpx2.AsyncClient, mode: str, began: float) -> str | None:
        async with self._client(client, mode) as session:
            spoken = session.protocol_version
            if (spoken == MODERN) != (mode == MODERN):
                return f"the protocol spoken was {spoken}"
            tools = await _listed(session)
            if self.report.first_ms is None:
                self.report.first_ms = round((self._clock() - began) * 1000, 2)
            names = [str(tool.get("name")) for tool in tools]
            if missing := [name for name in self._wishes.tools if name not in names]:
                return f"it does not list {', '.join(missing)}; it lists {', '.join(names) or 'nothing'}"
            return await self._call(session, tools)

    async def _call(self, session: Client, tools: Sequence[Json]) -> str | None:
        """Call the tool that was named, once unless it says that twice is as good; or one that only reads."""
        call = self._wishes.call
        if call is None:
            return None
        chosen = callable_tool(tools) if call is ANY_TOOL else (call[0], dict(call[1]))
        if chosen is None:
            self._call_none(tools)
            return None
        described = next((tool for tool in tools if tool.get("name") == chosen[0]), None)
        if described is None:
            names = [str(tool.get("name")) for tool in tools]
            return f"it has no tool {chosen[0]}; it lists {', '.join(names) or 'nothing'}"
        if self._called_tool and not repeatable(described):
            return None
        self._called_tool, self._did = chosen[0], f"tools listed and {chosen[0]} called"
        try:
            result = await session.call_tool(*chosen)
        except (MCPError, ValueError) as error:  # which pydantic's is
            wrong = f"the tool {chosen[0]} failed: {type(error).__name__}: {in_a_line(error)}"
        else:
            if not result.is_error:
                return None
            said = " ".join(part.text for part in result.content if isinstance(part, TextContent))
            wrong = f"the tool {chosen[0]} failed: {said}"
        if call is not ANY_TOOL:
            return wrong
        # An example need not be of today: the tool may be right to refuse it, and the call has gone all the way.
        self._warn(f"{wrong} (with the arguments that its schema gives, {chosen[1]})")
        return None

    def _call_none(self, tools: Sequence[Json]) -> None:
        words = (
            "no tool was called: none says that it only reads (readOnlyHint: true) and needs no arguments but what its"
            f" schema gives; --call {self._server.name}/TOOL calls the one that you name"
        )
        if tools and words not in self.report.unasked:
            self.report.unasked.append(words)

    async def _look_closer(self, auth: IdTokenAuth | None) -> None:
        """What clients stumble over, and how long an answer takes."""
        async with self._http(auth) as http:
            other = self._url.removesuffix("/") if self._url.endswith("/") else f"{self._url}/"
            slash = await http.post(other, json=PING, headers=HEADERS)
            if slash.is_redirect:
                self.report.warned.append(f"{other} redirects to {slash.headers.get('location')}")
            foreign = await http.post(self._url, json=PING, headers={**HEADERS, "origin": "https://another.example"})
            if foreign.status_code != 403:
                text = f"a web page of another origin is answered {foreign.status_code}; the specification wants 403"
                self.report.warned.append(text)
            times: list[float] = []
            for _ in range(_SAMPLES):
                began = self._clock()
                await http.post(self._url, json=PING, headers=HEADERS)
                times.append((self._clock() - began) * 1000)
        self.report.median_ms = round(statistics.median(times), 2)


async def check_all(checks: Iterable[tuple[DeployedServer | Caller, Callers, CheckOptions | None]]) -> list[Report]:
    """Check servers and clients side by side."""
    return await asyncio.gather(*(check(service, callers, wishes) for service, callers, wishes in checks))


async def _not_for(source: TokenSource, audience: str) -> str:
    """Why an identity has no token for an OAuth client that Identity-Aware Proxy takes; '' where it has one."""
    if not audience:
        return "IAP takes no program's token (access.iap names no programmatic_clients)"
    try:
        token = await IdTokens(source, audience).aget()
    except AuthError as error:
        return str(error)
    return "" if audience in token.audience.split() else f"IAP wants a token for {audience}, and nobody here has one"


class _Page(PaginatedResult):
    """One page of a list of tools, as the JSON that came."""

    tools: list[dict[str, Any]]


async def _listed(session: Client) -> list[Json]:
    """Every tool of a server."""
    found: list[Json] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = await session.session.send_request(ListToolsRequest(params=PaginatedRequestParams(cursor=cursor)), _Page)
        found += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    else:
        raise ValueError(f"its list of tools has not ended after {_PAGES} pages")
    await session.list_tools()  # so that the client knows which arguments headers repeat
    return found
