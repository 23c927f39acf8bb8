"""`mcpfleet doctor SERVER`: finds out, hop by hop, why a server's URL does not work, with the next step."""

from __future__ import annotations

import asyncio
import email.utils
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx2

from mcpfleet import jsonrpc
from mcpfleet.access_checks import Callers, attempts
from mcpfleet.auth import SERVERLESS_AUTHORIZATION, IdTokenAuth
from mcpfleet.bounds import (
    CHECK_SECONDS,
    MAX_CHECK_BRACKETS,
    TOTAL_FACTOR,
    UNCOMPRESSED,
    ResponseLimit,
    check_seconds,
    max_answer_bytes,
)
from mcpfleet.diagnosis import CallerIdentity, diagnose, is_from_iap, is_mcp_content, log_hint
from mcpfleet.errors import AuthError
from mcpfleet.inert import inert
from mcpfleet.net import connection_reason, ssl_context
from mcpfleet.stack import DeployedServer
from mcpfleet.system import SET_CLOCK_COMMAND
from mcpfleet.token_sources import TokenSource
from mcpfleet.tokens import IdToken
from mcpfleet.tools import Tools
from mcpfleet.upstream import events, is_stream

SKEW_SECONDS: Final = 60.0
"""The difference between the clocks that is tolerated: Google's checks of a token's times allow this much."""

_HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_CLIENT: Final = {"name": "mcpfleet-doctor", "version": "1"}
_INITIALIZE: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": jsonrpc.INITIALIZE,
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": _CLIENT},
}
_DISCOVER: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": jsonrpc.DISCOVER,
    "params": {
        "_meta": {
            jsonrpc.VERSION_META: "2026-07-28",
            "io.modelcontextprotocol/clientInfo": _CLIENT,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    },
}
_METADATA: Final = re.compile(r'resource_metadata="?([^",\s]+)')
_SHOWN_CHARACTERS: Final = 200
"""The most characters of a response that are shown."""
_PATH_HINT: Final = "Check the path. The default is /mcp."
_LOGIN_HINT: Final = "Give clients its URL: they log in by themselves. The server does not accept Google's ID tokens."


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        kind: `skip` if the check could not be made.
        text: The result.
        step: The next step; '' if there is nothing to do.
    """

    kind: Literal["ok", "warn", "bad", "skip"]
    text: str
    step: str = ""


def examine(
    server: DeployedServer,
    source: TokenSource | None,
    *,
    transport: httpx2.AsyncBaseTransport | None = None,
    clock: Callable[[], float] = time.time,
) -> list[CheckResult]:
    """Call a server as its clients would, and explain each response.

    Args:
        server: The server.
        source: The identity to call as; None to call without a token only.
        transport: The HTTP transport; the network by default.
        clock: Unix time in seconds.
    """
    return asyncio.run(_examine(server, source, transport, clock))


async def _examine(
    server: DeployedServer,
    source: TokenSource | None,
    transport: httpx2.AsyncBaseTransport | None,
    clock: Callable[[], float],
) -> list[CheckResult]:
    target = server.target
    trust_env = not target.on_this_machine
    async with httpx2.AsyncClient(
        transport=transport,
        timeout=check_seconds(),
        verify=ssl_context(trust_env),
        trust_env=trust_env,
        headers=UNCOMPRESSED,
        event_hooks={"response": [ResponseLimit(total=TOTAL_FACTOR * max_answer_bytes(), brackets=MAX_CHECK_BRACKETS)]},
    ) as http:
        try:
            anonymous = await _send(http, target.mcp_url, httpx2.Auth())
        except (httpx2.HTTPError, TimeoutError) as error:
            is_unreachable = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout))
            problem = "cannot be reached" if is_unreachable else "gives no usable response"
            return [
                CheckResult(
                    "bad",
                    f"{target.origin} {problem}: {connection_reason(error).rstrip('.')}.",
                    "Check the network, and check the URL with `pulumi stack output servers`.",
                )
            ]
        lines = [
            CheckResult("ok", f"{target.origin} responds"),
            _check_without_token(server, anonymous),
            *_check_clock(anonymous, clock()),
        ]
        if server.access == "public" and not _requires_login(anonymous):
            caller, authentication = CallerIdentity("anybody", "allUsers", "nobody"), "without a token"
            lines.append(
                _check_sse(anonymous, server, authentication)
                or _check_refusal(anonymous, server, caller, authentication)
                or await _check_mcp(http, server, anonymous, httpx2.Auth(), authentication)
            )
        if not server.needs_id_token or source is None or (not server.output and _requires_login(anonymous)):
            return lines
        return [
            *lines,
            *await _check_with_token(http, server, source, clock, iap=is_from_iap(anonymous.status, anonymous.headers)),
        ]


async def _check_with_token(
    http: httpx2.AsyncClient, server: DeployedServer, source: TokenSource, clock: Callable[[], float], *, iap: bool
) -> list[CheckResult]:
    """Check the responses to a token for the service, or for an OAuth client that its Identity-Aware Proxy accepts."""
    iap = iap or server.access == "iap"
    audience = (server.program_audience if iap else "") or server.audience
    if server.access == "iap" and audience == server.target.origin:
        step = "Add an OAuth client to access.iap.programmatic_clients, or set one that IAP accepts with --audience."
        return [CheckResult("skip", "with a token: not checked; IAP accepts no tokens of programs", step)]
    auth = IdTokenAuth(audience, source, header="Authorization" if iap else SERVERLESS_AUTHORIZATION, clock=clock)
    try:
        token = await auth.tokens.aget()
    except AuthError as error:
        return [CheckResult("bad", "you have no token to call with", str(error))]
    lines = [_check_token(token, server, auth)]
    try:
        answer = await _send(http, server.target.mcp_url, auth)
        caller, authentication = auth.tokens.caller, "with the token"
        lines.append(
            _check_sse(answer, server, authentication)
            or _check_refusal(answer, server, caller, authentication)
            or await _check_mcp(http, server, answer, auth, authentication)
        )
    except (httpx2.HTTPError, TimeoutError) as error:
        lines.append(CheckResult("bad", f"with the token there is no response: {connection_reason(error)}"))
    return lines


@dataclass(frozen=True)
class _Response:
    """A response that was read. The body of a stream is its event with the reply; empty if it has none."""

    status: int
    headers: httpx2.Headers
    body: bytes
    response: httpx2.Response

    @property
    def content_type(self) -> str:
        return inert(self.headers.get("content-type", "nothing"), _SHOWN_CHARACTERS)

    @property
    def excerpt(self) -> str:
        """The beginning of the body, for a message."""
        text = inert(" ".join(self.body[: 4 * _SHOWN_CHARACTERS].decode("utf-8", "replace").split()), _SHOWN_CHARACTERS)
        return f": {text}" if text else ""


async def _send(
    http: httpx2.AsyncClient, url: str, auth: httpx2.Auth, request: Mapping[str, Any] = _INITIALIZE
) -> _Response:
    """Send a request and read its response, both within the time limit of one check."""
    seconds, content = check_seconds(), jsonrpc.encode(request)
    headers = _HEADERS if request is _INITIALIZE else {**_HEADERS, **Tools().headers(jsonrpc.parse(content))}
    try:
        async with (
            asyncio.timeout(seconds),
            http.stream("POST", url, content=content, headers=headers, auth=auth) as response,
        ):
            readable = response.is_success and is_stream(response)
            body = await _read_response_event(response) if readable else await response.aread()
            return _Response(response.status_code, response.headers, body, response)
    except TimeoutError:
        raise TimeoutError(f"the response was not complete after {seconds:g} s ({CHECK_SECONDS})") from None


async def _read_response_event(response: httpx2.Response) -> bytes:
    async for event in events(response):
        message = jsonrpc.decode(event.data)
        if message is not None and "method" not in message:
            return event.data
    return b""


def _check_without_token(server: DeployedServer, answer: _Response) -> CheckResult:
    """Check that the response is the refusal of the server's kind of access. No other response proves a refusal."""
    status, access = answer.status, server.access
    refusal = next(attempts(server, Callers(None), 0.0), None)
    if refusal is not None and refusal.is_refused(answer.response):
        login = f"; it requires a login{_metadata_text(answer)}" if access in {"login", "oauth"} else ""
        return CheckResult("ok", f"without a token it refuses: {status}{login}", _LOGIN_HINT if login else "")
    if is_from_iap(status, answer.headers):
        text = f"without a token Identity-Aware Proxy refuses: {status}"
        if not server.output:
            return CheckResult("ok", text)
        step = "Set `access: {iap: …}` in the config, or turn IAP off with `pulumi up --refresh`."
        return CheckResult("warn", f"{text}; in the stack its access is {access}", step)
    if _requires_login(answer):
        text = f"without a token the server itself requires a login: {status}{_metadata_text(answer)}"
        if not server.needs_id_token or not server.output:
            return CheckResult("ok" if access not in {"login", "oauth"} else "warn", text, _LOGIN_HINT)
        step = (
            "If that is intended, set `access: {public: …}`; otherwise remove allUsers from its invokers. "
            "Then run `pulumi up`."
        )
        return CheckResult(
            "bad", f"{text}. Google lets everybody reach it, but in the stack its access is {access}.", step
        )
    if refusal is None:
        return CheckResult("ok", f"without a token it returns {status}: it is public")
    if server.is_internal and status == 404:
        return CheckResult("ok", "from outside its network it returns 404, as it should")
    if status < 300 and is_mcp_content(answer.headers):
        return CheckResult(
            "warn" if not server.output else "bad",
            f"without a token it returns {status}: everybody may call it.",
            "If it should be private, remove allUsers from its invokers and run `pulumi up`.",
        )
    if status in {301, 302, 303, 307, 308}:
        return CheckResult("warn", f"without a token it redirects to {answer.headers.get('location')}")
    return CheckResult(
        "warn", f"without a token it returns {status}, which is not a refusal: it may accept other callers, too"
    )


def _requires_login(answer: _Response) -> bool:
    """Return whether a 401 comes from the server. Google's front end sends it in HTML, and only for invalid tokens."""
    is_html = answer.headers.get("content-type", "").lower().startswith("text/html")
    is_from_server = "www-authenticate" in answer.headers and (bool(_metadata_text(answer)) or not is_html)
    return answer.status == 401 and is_from_server and not is_from_iap(answer.status, answer.headers)


def _metadata_text(answer: _Response) -> str:
    match = _METADATA.search(answer.headers.get("www-authenticate", ""))
    return f" ({inert(match[1], _SHOWN_CHARACTERS)})" if match else ""


def _check_clock(answer: _Response, now: float) -> list[CheckResult]:
    try:
        date = email.utils.parsedate_tz(answer.headers.get("date", ""))
        if date is None:
            return []
        ahead = now - email.utils.mktime_tz(date)
    except (ValueError, OverflowError):
        return []  # not a valid date
    if abs(ahead) <= SKEW_SECONDS:
        return [CheckResult("ok", "this machine's clock agrees with the server's")]
    direction = "ahead of" if ahead > 0 else "behind"
    step = f"Set the clock ({SET_CLOCK_COMMAND}): tokens are good for certain seconds only."
    return [CheckResult("bad", f"this machine's clock is {abs(ahead):.0f} s {direction} the server's", step)]


def _check_token(token: IdToken, server: DeployedServer, auth: IdTokenAuth) -> CheckResult:
    text = f"the token is for {token.audience or 'no audience'} and names {token.member or 'no email address'}"
    is_person = token.member.startswith("user:")
    if not is_person and token.audience not in {auth.tokens.audience, server.target.origin}:
        return CheckResult("bad", text, f"It should be for {auth.tokens.audience}; set that with --audience.")
    return CheckResult("ok", f"{text} ({auth.tokens.source.name})")


def _check_sse(answer: _Response, server: DeployedServer, authentication: str) -> CheckResult | None:
    """Check a server that speaks only the deprecated SSE transport, and so accepts no POST; None for other servers."""
    if not server.is_sse_only or answer.status != 405:
        return None
    step = f"Run `mcpfleet verify {server.name}`, which supports SSE."
    return CheckResult("skip", f"{authentication} it returns 405, as a server that only speaks SSE does", step)


def _check_refusal(
    answer: _Response, server: DeployedServer, caller: CallerIdentity, authentication: str
) -> CheckResult | None:
    """Explain a response that refuses the caller or the request; None if the MCP server handled the request."""
    if _requires_login(answer):
        step = (
            "Google accepted your ID token. For the server's own login, use a client with `mcpfleet proxy`, "
            "which forwards the client's Authorization header."
        )
        return CheckResult(
            "bad", f"{authentication} the server itself requires a login: 401{_metadata_text(answer)}", step
        )
    diagnosis = diagnose(answer.status, answer.headers, server.target, caller)
    if diagnosis is not None:
        return CheckResult("bad", f"{authentication}: {diagnosis.status}: {diagnosis.cause}", diagnosis.step)
    if answer.status == 421:
        step = "Add the host to the server's allowed hosts; the fleet does this for the URLs that it knows."
        return CheckResult(
            "bad", f"{authentication}: 421: the server does not accept the host {server.target.host}", step
        )
    return None


async def _check_mcp(
    http: httpx2.AsyncClient, server: DeployedServer, answer: _Response, auth: httpx2.Auth, authentication: str
) -> CheckResult:
    """Check that a response to `initialize` comes from an MCP server."""
    message = jsonrpc.decode(answer.body)
    normalized = None if message is None else jsonrpc.normalize_reply(message, 1)
    if message is None or normalized is None or ("error" in normalized and message.get("jsonrpc") != "2.0"):
        step = _PATH_HINT if answer.status < 300 or answer.status in {404, 405} else log_hint(server.target)
        if answer.status < 300 and is_stream(answer.response):
            return CheckResult(
                "bad", f"{authentication} it returns {answer.status} with a stream that ends without a reply", step
            )
        return CheckResult(
            "bad",
            f"{authentication} it returns {answer.status} with {answer.content_type}, not MCP{answer.excerpt}",
            step,
        )
    if "error" in normalized:
        message_text = inert(normalized["error"]["message"], _SHOWN_CHARACTERS)
        return await _check_discovery(http, server, auth, authentication) or CheckResult(
            "bad", f"{authentication} the MCP server itself returns {answer.status}: {message_text}"
        )
    if answer.status >= 300 or not isinstance(normalized["result"].get("protocolVersion"), str):
        return CheckResult(
            "bad", f"{authentication} it returns {answer.status} with JSON-RPC, but not MCP{answer.excerpt}", _PATH_HINT
        )
    if message != normalized or type(message["id"]) is not int:
        step = (
            'A reply must have "jsonrpc": "2.0", the id of the request, and a result or an error. `connect` corrects '
            "such replies; a client that calls the URL directly may wait forever."
        )
        return CheckResult(
            "warn",
            f"{authentication} an MCP server responds, but its reply is not valid JSON-RPC{answer.excerpt}",
            step,
        )
    return CheckResult("ok", f"{authentication} an MCP server responds ({answer.status})")


async def _check_discovery(
    http: httpx2.AsyncClient, server: DeployedServer, auth: httpx2.Auth, authentication: str
) -> CheckResult | None:
    """Check whether a server that refuses the handshake speaks the revision without one; None if it does not."""
    answer = await _send(http, server.target.mcp_url, auth, _DISCOVER)
    message = jsonrpc.decode(answer.body)
    if answer.status >= 300 or message is None or "result" not in (jsonrpc.normalize_reply(message, 1) or {}):
        return None
    return CheckResult(
        "ok",
        f"{authentication} an MCP server responds ({answer.status}); it speaks 2026-07-28, and refuses older clients",
    )
