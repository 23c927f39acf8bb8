"""Verifies deployed servers as their clients would: who is refused, and that an invoker's MCP calls work.

Nothing here looks at the cloud's own records. Every check is a request to a server's URL with a real token, and the
MCP calls are made by the official SDK's client. `mcpfleet verify` and `./dev up` are both this.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import TextContent

from mcpfleet.auth import IdTokenAuth
from mcpfleet.diagnosis import diagnose
from mcpfleet.harmless import callable_tool
from mcpfleet.sources import TokenSource
from mcpfleet.stack import Server

LEGACY: Final = "legacy"
MODERN: Final = "2026-07-28"
"""Both protocol eras that the SDK's client speaks: the `initialize` handshake, and the sessionless revision."""

ANY_TOOL: Final[tuple[str, Mapping[str, Any]]] = ("*", {})
"""Instead of a tool's name: any that can be called and does no harm."""

TIMEOUT_SECONDS: Final = 60.0
_SAMPLES: Final = 10
_ELSEWHERE: Final = "https://another.example"
_PING: Final = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
_HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}


@dataclass(frozen=True)
class Callers:
    """Those who call.

    Attributes:
        invoker: May call; None where nobody of this machine may.
        stranger: Exists, and may not; None where there is no such identity.
        elsewhere: Can have a token for any audience; None where there is no such identity. A person cannot.
    """

    invoker: TokenSource | None
    stranger: TokenSource | None = None
    elsewhere: TokenSource | None = None


@dataclass(frozen=True)
class Wishes:
    """What is asked for beyond what holds for every server.

    Attributes:
        tools: Names that must be listed.
        call: A tool to call, and its arguments; `ANY_TOOL` for one that does no harm; None for none.
    """

    tools: Sequence[str] = ()
    call: tuple[str, Mapping[str, Any]] | None = None


@dataclass
class Report:
    """What was seen at one server.

    Attributes:
        server: Its name in the fleet.
        passed: The checks that held, in words.
        failed: Those that did not, each with what was seen instead.
        warned: What a client may stumble over, though nothing is broken.
        first_ms: Milliseconds to the first answer, with the start of an instance where none ran.
        median_ms: Milliseconds of a request after that.
    """

    server: str
    passed: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    warned: list[str] = field(default_factory=list[str])
    first_ms: float | None = None
    median_ms: float | None = None


async def check(
    server: Server,
    callers: Callers,
    wishes: Wishes | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Check one server.

    Args:
        server: The server.
        callers: Who calls.
        wishes: What else is asked for.
        transport: What carries the requests; the network where it is not given.
        clock: Seconds.
    """
    one = _Check(server, callers, wishes or Wishes(), transport, clock)
    await one.run()
    return one.report


_TOO_NEW: Final = "Unsupported protocol version"
"""What servers of the SDKs answer to a revision that is newer than they are."""


class _Check:
    def __init__(
        self,
        server: Server,
        callers: Callers,
        wishes: Wishes,
        transport: httpx2.AsyncBaseTransport | None,
        clock: Callable[[], float],
    ) -> None:
        self.report = Report(server.name)
        self._server = server
        self._url = server.target.mcp_url
        self._callers = callers
        self._wishes = wishes
        self._transport = transport
        self._clock = clock

    async def run(self) -> None:
        access = self._server.access
        if self._server.inside and await self._refused(None, 404) is None:
            self.report.passed.append("from outside its network: 404")
            self.report.warned.append("its calls were not checked: they have to come from the project's networks")
        elif access == "oauth":
            await self._note("without a token: 401 that names the resource's metadata", self._sends_to_oauth())
            self.report.warned.append("its calls were not checked: they need a token of its own OAuth")
        elif access == "iap":
            await self._note("without a token: refused by IAP", self._refused(None, 302, 401, 403))
            self.report.warned.append("its calls were not checked: IAP wants a login of its own")
        elif access == "public":
            await self._check_calls(None)
        else:
            await self._check_refusals()
            if self._callers.invoker is not None:
                await self._check_calls(IdTokenAuth(self._server.audience, self._callers.invoker))

    async def _check_refusals(self) -> None:
        refusals: list[tuple[str, IdTokenAuth | None, int]] = [("without a token: 403", None, 403)]
        if (elsewhere := self._callers.elsewhere) is not None:
            refusals.append(("with a token for another audience: 401", IdTokenAuth(_ELSEWHERE, elsewhere), 401))
        if (stranger := self._callers.stranger) is not None:
            auth = IdTokenAuth(self._server.audience, stranger)
            refusals.append(("as a member who is no invoker: 403", auth, 403))
        for words, auth, expected in refusals:
            await self._note(words, self._refused(auth, expected))

    async def _check_calls(self, auth: IdTokenAuth | None) -> None:
        began = self._clock()
        who = "without a token" if auth is None else "as an invoker"
        does = "tools listed" + (" and one called" if self._wishes.call else "")
        for mode in (LEGACY, MODERN):
            words = f"{who}, protocol {mode}: {does}, no redirect"
            await self._note(words, self._calls(auth, mode, began))
            last = self.report.failed[-1] if self.report.failed else ""
            if mode == MODERN and len(self.report.failed) == 1 and last.startswith(words) and _TOO_NEW in last:
                # Most servers in the world are older than the revision, and clients of both are served.
                self.report.failed.pop()
                self.report.warned.append(f"it does not speak {MODERN}; clients fall back to the revision before")
        if self.report.first_ms is not None:
            await self._look_closer(auth)

    async def _note(self, words: str, seen: Awaitable[str | None]) -> None:
        try:
            wrong = await seen
        except Exception as error:  # whatever went wrong on the way is the finding
            wrong = f"{type(error).__name__}: {_innermost(error)}"
        if wrong is None:
            self.report.passed.append(words)
        else:
            self.report.failed.append(f"{words}: {wrong}")

    def _http(self, auth: IdTokenAuth | None, seen: list[httpx2.Response] | None = None) -> httpx2.AsyncClient:
        async def look(response: httpx2.Response) -> None:
            if seen is not None and response.status_code >= 300:
                seen.append(response)

        hooks: dict[str, list[Callable[..., Any]]] = {"response": [look]}
        return httpx2.AsyncClient(
            auth=auth,
            transport=self._transport,
            timeout=TIMEOUT_SECONDS,
            trust_env=not self._server.target.on_this_machine,
            event_hooks=hooks,
        )

    async def _refused(self, auth: IdTokenAuth | None, *expected: int) -> str | None:
        async with self._http(auth) as http:
            answer = await http.post(self._url, json=_PING, headers=_HEADERS)
        return None if answer.status_code in expected else f"the answer was {answer.status_code}"

    async def _sends_to_oauth(self) -> str | None:
        async with self._http(None) as http:
            answer = await http.post(self._url, json=_PING, headers=_HEADERS)
        if answer.status_code != 401:
            return f"the answer was {answer.status_code}"
        if "resource_metadata" not in answer.headers.get("www-authenticate", ""):
            return "its WWW-Authenticate names no resource_metadata (RFC 9728), so no client finds the way to log in"
        return None

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
            if auth is not None and not response.is_redirect:
                target, caller = self._server.target, auth.tokens.caller
                if found := diagnose(response.status_code, response.headers, target, caller):
                    return str(found)
        return "" if any(response.is_redirect for response in seen) else None

    async def _called(self, client: httpx2.AsyncClient, mode: str, began: float) -> str | None:
        async with (
            client as http,
            Client(streamable_http_client(self._url, http_client=http), mode=mode) as session,
        ):
            spoken = session.protocol_version
            if (spoken == MODERN) != (mode == MODERN):
                return f"the protocol spoken was {spoken}"
            tools = (await session.list_tools()).tools
            if self.report.first_ms is None:
                self.report.first_ms = round((self._clock() - began) * 1000, 2)
            names = [tool.name for tool in tools]
            if missing := [name for name in self._wishes.tools if name not in names]:
                return f"it does not list {', '.join(missing)}; it lists {', '.join(names) or 'nothing'}"
            call = self._wishes.call
            if call is None:
                return None
            chosen = callable_tool(tools) if call is ANY_TOOL else (call[0], dict(call[1]))
            if chosen is None:
                self._warn("it has no tool that can be called with numbers and words, so none was")
                return None
            if chosen[0] not in names:
                return f"it has no tool {chosen[0]}; it lists {', '.join(names) or 'nothing'}"
            result = await session.call_tool(*chosen)
        if not result.is_error:
            return None
        said = " ".join(part.text for part in result.content if isinstance(part, TextContent))
        wrong = f"the tool {chosen[0]} failed: {said}"
        if call is not ANY_TOOL:
            return wrong
        # The arguments were made up: the tool may be right to refuse them, and the call has gone all the way.
        self._warn(f"{wrong} (with the made-up arguments {chosen[1]})")
        return None

    def _warn(self, words: str) -> None:
        if words not in self.report.warned:  # once for both protocols
            self.report.warned.append(words)

    async def _look_closer(self, auth: IdTokenAuth | None) -> None:
        """What clients stumble over, and how long an answer takes."""
        async with self._http(auth) as http:
            slash = await http.post(f"{self._url}/", json=_PING, headers=_HEADERS)
            if slash.is_redirect:
                self.report.warned.append(f"{self._url}/ redirects to {slash.headers.get('location')}")
            foreign = await http.post(self._url, json=_PING, headers={**_HEADERS, "origin": "https://another.example"})
            if foreign.status_code != 403:
                text = f"a web page of another origin is answered {foreign.status_code}; the specification wants 403"
                self.report.warned.append(text)
            times: list[float] = []
            for _ in range(_SAMPLES):
                began = self._clock()
                await http.post(self._url, json=_PING, headers=_HEADERS)
                times.append((self._clock() - began) * 1000)
        self.report.median_ms = round(statistics.median(times), 2)


async def check_all(checks: Iterable[tuple[Server, Callers]], wishes: Wishes | None = None) -> list[Report]:
    """Check servers side by side."""
    return await asyncio.gather(*(check(server, callers, wishes) for server, callers in checks))


def _innermost(error: BaseException) -> BaseException:
    """A task group wraps what went wrong within it."""
    if isinstance(error, BaseExceptionGroup):
        return _innermost(cast("BaseExceptionGroup[BaseException]", error).exceptions[0])
    return error
