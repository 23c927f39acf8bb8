"""Verifies deployed servers as their clients would: callers without access are rejected, and an invoker's calls work.

Nothing here reads the cloud's own records. Every check is a request to a server's URL with a real token, and the
official SDK's client makes the MCP calls. `mcpfleet verify` and `./dev up` both use this module.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import httpx2
from mcp.client import Client
from mcp_types import INVALID_PARAMS

from mcpfleet import access_checks, client_checks
from mcpfleet.access_checks import HEADERS, PING, Callers, Probe
from mcpfleet.auth import IdTokenAuth
from mcpfleet.bounds import CHECK_SECONDS, check_seconds
from mcpfleet.contract import Lock, find_changes
from mcpfleet.golden import GoldenCall
from mcpfleet.inert import error_line, innermost_error
from mcpfleet.server_session import explain_errors, find_caller, http_client, list_tools, open_session, read_contract
from mcpfleet.stack import DeployedClient, DeployedServer
from mcpfleet.tool_calls import call_tool
from mcpfleet.tools import Json, find_safe_tool, is_repeatable

LEGACY: Final = "legacy"
MODERN: Final = "2026-07-28"
"""The two protocol versions that the SDK's client speaks: with the `initialize` handshake, and without sessions."""

ANY_TOOL: Final[tuple[str, Mapping[str, Any]]] = ("*", {})
"""Stands for any tool with `readOnlyHint`."""

_SAMPLES: Final = 10
_SHOWN_CHANGES: Final = 5


@dataclass(frozen=True)
class CheckOptions:
    """Checks to make in addition to those of every server, and their limits.

    Attributes:
        tools: Names that must be listed.
        call: A tool to call, and its arguments; `ANY_TOOL` for any tool with `readOnlyHint`; None for no call.
        bearer_token: A token that the server itself requires, in addition to Google's; '' for none.
        lock: The locked contract that the server must keep; None to compare nothing.
        golden_calls: Calls, each made once, with what their answers must hold.
        seconds: The limit for one check, also of a client; None for the value of `MCPFLEET_CHECK_SECONDS`.
    """

    tools: Sequence[str] = ()
    call: tuple[str, Mapping[str, Any]] | None = None
    bearer_token: str = field(default="", repr=False)
    seconds: float | None = None
    lock: Lock | None = None
    golden_calls: Sequence[GoldenCall] = ()


@dataclass
class Report:
    """The results of the checks of one server or client.

    Attributes:
        server: The name of the server or client in the fleet.
        passed: The checks that passed, one line each.
        failed: The checks that failed, each with the reason.
        warned: Problems that do not break anything, but that clients or the owner should know.
        unasked: The checks that were not made, each with the reason.
        calls: The outcomes of the calls that the user named (`mcpfleet.tool_calls.ToolCall`), with the revision.
        first_ms: Milliseconds to the first list of tools, with a cold start if no instance ran.
        median_ms: Median milliseconds of a request after that.
    """

    server: str
    passed: list[str] = field(default_factory=list[str])
    failed: list[str] = field(default_factory=list[str])
    warned: list[str] = field(default_factory=list[str])
    unasked: list[str] = field(default_factory=list[str])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    first_ms: float | None = None
    median_ms: float | None = None


async def check(
    service: DeployedServer | DeployedClient,
    callers: Callers,
    options: CheckOptions | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Report:
    """Check one server or client.

    Args:
        service: The server or client.
        callers: The identities to call as.
        options: Further checks, and their limits.
        transport: The HTTP transport; the network by default.
        clock: A monotonic clock, in seconds.
    """
    options = options or CheckOptions()
    if isinstance(service, DeployedServer):
        service_check = _ServerCheck(service, callers, options, transport, clock)
    else:
        service_check = _ClientCheck(service, callers, options, transport)
    await service_check.run()
    return service_check.report


class _ServiceCheck:
    """The checks of every service, with the identity that they use."""

    _bearer_token: str = ""
    """A token that the service itself requires, in addition to Google's."""

    def __init__(
        self,
        service: DeployedServer | DeployedClient,
        callers: Callers,
        options: CheckOptions,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        self.report = Report(service.name)
        self._options = options
        self._seconds = check_seconds() if options.seconds is None else options.seconds
        self._service = service
        self._callers = callers
        self._transport = transport
        probes = (
            access_checks.server_probes(service)
            if isinstance(service, DeployedServer)
            else access_checks.client_probes(service)
        )
        self._probes: list[Probe] = [*probes]

    async def run(self) -> None:
        if self._service.access == "public":
            self._warn(self._public_text())
        for attempt in access_checks.attempts(self._service, self._callers, time.time()):
            await self._record(lambda text=attempt.text: text, self._try_attempt(attempt))
        self.report.unasked += access_checks.skipped_attempts(self._service, self._callers)

    async def _find_caller(self, subject: str) -> tuple[str, IdTokenAuth | None] | None:
        """Find the identity to call as.

        Returns:
            The identity for the report, and its auth; None if no identity here may call: then the reason is in the
            report, with *subject*, the checks that are left out.
        """
        caller = await find_caller(self._service, self._callers.invoker, self._bearer_token)
        if isinstance(caller, str):
            self.report.unasked.append(f"{subject}: not checked; {caller}")
            return None
        return caller

    def _public_text(self) -> str:
        reason = self._service.output.get("public_reason") or "the stack does not say why"
        calls = self._service.calls if isinstance(self._service, DeployedClient) else ()
        through = f", and through it {', '.join(calls)} as its account" if calls else ""
        return f"it is public: anybody may call it{through} ({reason})"

    def _warn(self, text: str) -> None:
        if text not in self.report.warned:  # once for both protocols
            self.report.warned.append(text)

    async def _try_attempt(self, attempt: access_checks.Attempt) -> str | None:
        async with self._http_client(None, anonymous=True) as http:
            return await access_checks.try_attempt(http, self._probes, attempt)

    async def _record(self, text: Callable[[], str], check: Awaitable[str | None]) -> None:
        """Run a check and add its result to the report; *text* is called after the check."""
        try:
            async with asyncio.timeout(self._seconds):
                failure = await check
        except TimeoutError:
            bound = CHECK_SECONDS if self._options.seconds is None else "--timeout"
            failure = f"it did not end within {self._seconds:g} s ({bound})"
        except Exception as error:  # any error of the request is a failure of the check
            cause = innermost_error(error)
            failure = f"{type(cause).__name__}: {error_line(cause)}"
        if failure is None:
            self.report.passed.append(text())
        else:
            self.report.failed.append(f"{text()}: {failure}")

    def _http_client(
        self, auth: IdTokenAuth | None, errors: list[httpx2.Response] | None = None, *, anonymous: bool = False
    ) -> httpx2.AsyncClient:
        """Create an HTTP client.

        Args:
            auth: The identity; None to send no ID token.
            errors: Collects responses with a status of 300 or more.
            anonymous: Whether to leave out the service's own token, too.
        """
        bearer_token = "" if anonymous else self._bearer_token
        target, transport = self._service.target, self._transport
        return http_client(target, auth, self._seconds, bearer_token=bearer_token, errors=errors, transport=transport)


class _ClientCheck(_ServiceCheck):
    """The further checks of a client: its health, and whether it reaches its servers (`mcpfleet.client_checks`)."""

    def __init__(
        self,
        client: DeployedClient,
        callers: Callers,
        options: CheckOptions,
        transport: httpx2.AsyncBaseTransport | None,
    ) -> None:
        super().__init__(client, callers, options, transport)
        self._client = client

    async def run(self) -> None:
        await super().run()
        caller = await self._find_caller("its answers, and whether it reaches its servers")
        if caller is None:
            return
        _, auth = caller
        lines = {"ok": self.report.passed, "bad": self.report.failed, "skip": self.report.unasked}
        async with self._http_client(auth) as http:
            seconds = self._options.seconds or min(self._seconds, client_checks.SECONDS)
            for result in await client_checks.check_client(self._client, http, auth, seconds):
                lines[result.kind].append(result.text)


class _ServerCheck(_ServiceCheck):
    """The further checks of a server: that the calls of its invokers work."""

    def __init__(
        self,
        server: DeployedServer,
        callers: Callers,
        options: CheckOptions,
        transport: httpx2.AsyncBaseTransport | None,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(server, callers, options, transport)
        self._server = server
        self._url = server.target.mcp_url
        self._bearer_token = options.bearer_token
        self._streamable = not server.is_sse_only
        self._clock = clock
        self._called_tool = ""
        self._calls_text = ""

    async def run(self) -> None:
        if self._server.is_internal and await self._is_internal_only():
            self.report.passed.append("from outside its network: 404")
            self.report.unasked.append("its access and its calls: not checked; run this from the project's networks")
            return
        await super().run()
        caller = await self._find_caller("its calls")
        if caller is not None:
            await self._check_calls(*caller)
        lock, golden_calls = self._options.lock, self._options.golden_calls
        if caller is None:
            unchecked = [*(["as locked"] if lock else []), *(["golden calls"] if golden_calls else [])]
            self.report.failed += [f"{text}: not checked, because nobody here may call it" for text in unchecked]
            return
        for index, call in enumerate(golden_calls):
            text = f"golden call [{index}] of {call.tool}"
            await self._record(lambda text=text: text, self._check_golden_call(call, caller[1]))
        if lock is None:
            return
        for mode in ("legacy", "auto") if self._streamable else ("legacy",):
            await self._record(lambda mode=mode: f"as locked, protocol {mode}", self._check_lock(lock, caller[1], mode))

    async def _is_internal_only(self) -> bool:
        try:
            async with asyncio.timeout(self._seconds), self._http_client(None, anonymous=True) as http:
                return {(await access_checks.send_probe(http, probe, {})).status_code for probe in self._probes} == {
                    404
                }
        except (TimeoutError, httpx2.HTTPError):
            return False  # the other checks report the error

    async def _check_lock(self, lock: Lock, auth: IdTokenAuth | None, mode: str) -> str | None:
        """Compare what the server lists with its lock; returns the changes that the lock does not allow."""
        async with open_session(self._server, self._http_client(auth), mode) as session:
            changes = find_changes(lock.contract, await read_contract(session))
        refused = lock.find_refused(changes)
        for change in changes:
            if change not in refused:
                self._warn(f"{change.kind}: {change.entry}: {change.text}")
        more = [f"and {len(refused) - _SHOWN_CHANGES} more"] if len(refused) > _SHOWN_CHANGES else []
        texts = [f"{change.kind}: {change.entry}: {change.text}" for change in refused[:_SHOWN_CHANGES]]
        return "; ".join([*texts, *more]) or None

    async def _check_golden_call(self, call: GoldenCall, auth: IdTokenAuth | None) -> str | None:
        errors: list[httpx2.Response] = []
        mode = "auto" if self._streamable else "legacy"
        async with open_session(self._server, self._http_client(auth, errors), mode) as session:
            await list_tools(session)  # tells the client which arguments to repeat in headers
            outcome = await call_tool(session, call.tool, call.arguments, errors)
        return "; ".join(call.find_failures(outcome)) or None

    async def _check_calls(self, caller: str, auth: IdTokenAuth | None) -> None:
        started_at = self._clock()
        for mode in (LEGACY, MODERN) if self._streamable else (LEGACY,):
            self._calls_text = "tools listed"
            prefix = f"{caller}, protocol {mode}: "
            await self._record(
                lambda prefix=prefix: f"{prefix}{self._calls_text}, no redirect",
                self._check_protocol(auth, mode, started_at),
            )
            failed = self.report.failed
            if mode == MODERN and len(failed) == 1 and failed[0].startswith(prefix) and await self._falls_back(auth):
                # Most servers are older than the revision, and clients of both revisions can use them.
                failed.pop()
                self._warn(f"it does not speak {MODERN}; clients fall back to the revision before")
        if self.report.first_ms is not None and self._streamable:
            try:
                async with asyncio.timeout(self._seconds):
                    await self._check_details(auth)
            except (TimeoutError, httpx2.HTTPError) as error:
                self._warn(f"the response time could not be measured: {type(error).__name__}: {error}")

    async def _falls_back(self, auth: IdTokenAuth | None) -> bool:
        """Return whether a client that negotiates the revision (mode `auto`) works, with an older revision.

        The specification does not define how a server rejects an unknown revision, so the error itself cannot tell.
        """
        try:
            async with (
                asyncio.timeout(self._seconds),
                open_session(self._server, self._http_client(auth), "auto") as session,
            ):
                await session.list_tools()
                return session.protocol_version != MODERN
        except Exception:  # the earlier failure stays in the report
            return False

    async def _check_protocol(self, auth: IdTokenAuth | None, mode: str, started_at: float) -> str | None:
        errors: list[httpx2.Response] = []
        try:
            failure = await self._check_session(auth, errors, mode, started_at)
        except Exception as error:
            # An error after a refusal or a redirect has that as its cause.
            failure = explain_errors(self._server, auth, errors, self._bearer_token)
            if failure is None:
                raise
            del error
        redirected = [response for response in errors if response.is_redirect]
        if redirected:
            return f"redirected: {redirected[0].status_code} to {redirected[0].headers.get('location')}"
        return failure

    async def _check_session(
        self, auth: IdTokenAuth | None, errors: list[httpx2.Response], mode: str, started_at: float
    ) -> str | None:
        async with open_session(self._server, self._http_client(auth, errors), mode) as session:
            version = session.protocol_version
            if (version == MODERN) != (mode == MODERN):
                return f"the server used the protocol version {version}"
            tools = await list_tools(session)
            if self.report.first_ms is None:
                self.report.first_ms = round((self._clock() - started_at) * 1000, 2)
            names = [str(tool.get("name")) for tool in tools]
            if missing := [name for name in self._options.tools if name not in names]:
                return f"it does not list {', '.join(missing)}; it lists {', '.join(names) or 'no tools'}"
            return await self._call_tool(session, tools, auth, errors)

    async def _call_tool(
        self, session: Client, tools: Sequence[Json], auth: IdTokenAuth | None, errors: list[httpx2.Response]
    ) -> str | None:
        """Call the tool of the options, in both protocol versions only if it can be called twice.

        Returns:
            Why the call failed; None if it worked or there was none.
        """
        call = self._options.call
        if call is None:
            return None
        chosen = find_safe_tool(tools) if call is ANY_TOOL else (call[0], dict(call[1]))
        if chosen is None:
            self._record_no_call(tools)
            return None
        tool_description = next((tool for tool in tools if tool.get("name") == chosen[0]), None)
        if tool_description is None:
            names = [str(tool.get("name")) for tool in tools]
            return f"it has no tool {chosen[0]}; it lists {', '.join(names) or 'no tools'}"
        if self._called_tool and not is_repeatable(tool_description):
            return None
        self._called_tool, self._calls_text = chosen[0], f"tools listed and {chosen[0]} called"
        result = await call_tool(session, *chosen, errors)
        if result.outcome == "http_error" and (text := explain_errors(self._server, auth, errors, self._bearer_token)):
            result = replace(result, text=text)
        if call is not ANY_TOOL:
            self.report.calls.append({"protocol": session.protocol_version, **result.as_json()})
        if (failure := result.failure) is None:
            return None
        if call is ANY_TOOL and (result.outcome == "tool_error" or result.code == INVALID_PARAMS):
            # The call reached the server, and the schema's example may be out of date: the tool may be right to refuse.
            self._warn(f"{failure} (with the arguments from its schema, {chosen[1]})")
            return None
        return failure

    def _record_no_call(self, tools: Sequence[Json]) -> None:
        text = (
            "no tool was called: none has readOnlyHint: true and a schema with values for its required arguments;"
            f" name one with --call {self._server.name}/TOOL"
        )
        if tools and text not in self.report.unasked:
            self.report.unasked.append(text)

    async def _check_details(self, auth: IdTokenAuth | None) -> None:
        """Warn about redirects and web pages of other origins, and measure the response time."""
        async with self._http_client(auth) as http:
            other_url = self._url.removesuffix("/") if self._url.endswith("/") else f"{self._url}/"
            slash = await http.post(other_url, json=PING, headers=HEADERS)
            if slash.is_redirect:
                self.report.warned.append(f"{other_url} redirects to {slash.headers.get('location')}")
            foreign = await http.post(self._url, json=PING, headers={**HEADERS, "origin": "https://another.example"})
            if foreign.status_code != 403:
                text = f"a web page of another origin gets {foreign.status_code}; the MCP specification requires 403"
                self.report.warned.append(text)
            times: list[float] = []
            for _ in range(_SAMPLES):
                started_at = self._clock()
                await http.post(self._url, json=PING, headers=HEADERS)
                times.append((self._clock() - started_at) * 1000)
        self.report.median_ms = round(statistics.median(times), 2)


async def check_all(
    checks: Iterable[tuple[DeployedServer | DeployedClient, Callers, CheckOptions | None]],
) -> list[Report]:
    """Check servers and clients concurrently."""
    return await asyncio.gather(*(check(service, callers, options) for service, callers, options in checks))
