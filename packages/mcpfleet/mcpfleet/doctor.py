"""`mcpfleet doctor SERVER`: why a URL does not answer as it should, hop by hop, and what to type."""

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
from mcpfleet.bounds import AS_IT_IS, CHECK_SECONDS, FEW_BRACKETS, IN_ALL, Bound, check_seconds, max_answer
from mcpfleet.diagnosis import CallerIdentity, diagnose, is_proxys, is_the_servers, read_log
from mcpfleet.errors import AuthError
from mcpfleet.inert import inert
from mcpfleet.net import connection_reason, trusted
from mcpfleet.stack import DeployedServer
from mcpfleet.system import SET_CLOCK
from mcpfleet.token_sources import TokenSource
from mcpfleet.tokens import IdToken
from mcpfleet.tools import Tools
from mcpfleet.upstream import events, is_stream

SKEW_SECONDS: Final = 60.0
"""A token's times are whole seconds, and Google's checks leave this much room."""

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
_SHOWN: Final = 200
"""Characters of an answer that are shown."""
_PATH: Final = "Is the path right? The default is /mcp."
_CLIENTS_LOGIN: Final = (
    "Clients log in to it by themselves: give them its URL. An ID token of Google's is of no use there."
)


@dataclass(frozen=True)
class Line:
    """One finding.

    Attributes:
        kind: Whether it is as it should be; `skip` where it could not be found out.
        text: The finding.
        step: What to do next; '' where nothing has to be done.
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
) -> list[Line]:
    """Ask a server as its client would, and say what each answer means.

    Args:
        server: The server.
        source: Who asks; None asks without a token.
        transport: What carries the requests; the network where it is not given.
        clock: Unix time in seconds.
    """
    return asyncio.run(_examined(server, source, transport, clock))


async def _examined(
    server: DeployedServer,
    source: TokenSource | None,
    transport: httpx2.AsyncBaseTransport | None,
    clock: Callable[[], float],
) -> list[Line]:
    target = server.target
    trust_env = not target.on_this_machine
    async with httpx2.AsyncClient(
        transport=transport,
        timeout=check_seconds(),
        verify=trusted(trust_env),
        trust_env=trust_env,
        headers=AS_IT_IS,
        event_hooks={"response": [Bound(in_all=IN_ALL * max_answer(), brackets=FEW_BRACKETS)]},
    ) as http:
        try:
            anonymous = await _asked(http, target.mcp_url, httpx2.Auth())
        except (httpx2.HTTPError, TimeoutError) as error:
            nobody = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout))
            what = "cannot be reached" if nobody else "gives no answer that can be used"
            return [
                Line(
                    "bad",
                    f"{target.origin} {what}: {connection_reason(error).rstrip('.')}.",
                    "Check the network, and the URL: `pulumi stack output servers`.",
                )
            ]
        lines = [
            Line("ok", f"{target.origin} answers"),
            _without_token(server, anonymous),
            *_clock_of(anonymous, clock()),
        ]
        if server.access == "public" and not _asks_for_login(anonymous):
            anybody, how = CallerIdentity("anybody", "allUsers", "nobody"), "without a token"
            lines.append(
                _of_sse(anonymous, server, how)
                or _refused(anonymous, server, anybody, how)
                or await _mcp(http, server, anonymous, httpx2.Auth(), how)
            )
        if server.access in {"public", "oauth"} or source is None or (not server.output and _asks_for_login(anonymous)):
            return lines
        return [
            *lines,
            *await _as_caller(http, server, source, clock, iap=is_proxys(anonymous.status, anonymous.headers)),
        ]


async def _as_caller(
    http: httpx2.AsyncClient, server: DeployedServer, source: TokenSource, clock: Callable[[], float], *, iap: bool
) -> list[Line]:
    """What is said to somebody with a token: for the service, or for an OAuth client that its proxy takes."""
    iap = iap or server.access == "iap"
    audience = (server.program_audience if iap else "") or server.audience
    if server.access == "iap" and audience == server.target.origin:
        step = "Name an OAuth client in access.iap.programmatic_clients, or give one that it takes with --audience."
        return [Line("skip", "with a token: not asked; IAP takes no program's token", step)]
    auth = IdTokenAuth(audience, source, header="Authorization" if iap else SERVERLESS_AUTHORIZATION, clock=clock)
    try:
        token = await auth.tokens.aget()
    except AuthError as error:
        return [Line("bad", "there is no token to call with", str(error))]
    lines = [_token(token, server, auth)]
    try:
        answer = await _asked(http, server.target.mcp_url, auth)
        caller, how = auth.tokens.caller, "with the token"
        lines.append(
            _of_sse(answer, server, how)
            or _refused(answer, server, caller, how)
            or await _mcp(http, server, answer, auth, how)
        )
    except (httpx2.HTTPError, TimeoutError) as error:
        lines.append(Line("bad", f"with the token there is no answer: {connection_reason(error)}"))
    return lines


@dataclass(frozen=True)
class _Answer:
    """An answer: of a stream the event that answers the request, and nothing where there is none."""

    status: int
    headers: httpx2.Headers
    body: bytes
    response: httpx2.Response

    @property
    def kind(self) -> str:
        return inert(self.headers.get("content-type", "nothing"), _SHOWN)

    @property
    def said(self) -> str:
        """Its beginning, to be shown."""
        text = inert(" ".join(self.body[: 4 * _SHOWN].decode("utf-8", "replace").split()), _SHOWN)
        return f": {text}" if text else ""


async def _asked(
    http: httpx2.AsyncClient, url: str, auth: httpx2.Auth, request: Mapping[str, Any] = _INITIALIZE
) -> _Answer:
    """The answer, in the time that a check may take however it drips."""
    seconds, content = check_seconds(), jsonrpc.encode(request)
    headers = _HEADERS if request is _INITIALIZE else {**_HEADERS, **Tools().headers(jsonrpc.parse(content))}
    try:
        async with (
            asyncio.timeout(seconds),
            http.stream("POST", url, content=content, headers=headers, auth=auth) as response,
        ):
            readable = response.is_success and is_stream(response)
            body = await _event(response) if readable else await response.aread()
            return _Answer(response.status_code, response.headers, body, response)
    except TimeoutError:
        raise TimeoutError(f"its answer was not whole after {seconds:g} s ({CHECK_SECONDS})") from None


async def _event(response: httpx2.Response) -> bytes:
    async for event in events(response):
        found = jsonrpc.decode(event.data)
        if found is not None and "method" not in found:
            return event.data
    return b""


def _without_token(server: DeployedServer, answer: _Answer) -> Line:
    """Whether the answer is the refusal that the server's kind of access has; any other leaves open who gets in."""
    status, access = answer.status, server.access
    refusal = next(attempts(server, Callers(None), 0.0), None)
    if refusal is not None and refusal.refused(answer.response):
        login = f"; it asks for a login{_metadata(answer)}" if access == "oauth" else ""
        return Line("ok", f"without a token it refuses: {status}{login}", _CLIENTS_LOGIN if login else "")
    if is_proxys(status, answer.headers):
        text = f"without a token Identity-Aware Proxy refuses: {status}"
        if not server.output:
            return Line("ok", text)
        step = "Give it `access: {iap: …}`, or switch IAP off: `pulumi up --refresh` does."
        return Line("warn", f"{text}; by the stack its access is {access}", step)
    if _asks_for_login(answer):
        text = f"without a token the server itself asks for a login: {status}{_metadata(answer)}"
        if access in {"public", "oauth"} or not server.output:
            return Line("ok" if access != "oauth" else "warn", text, _CLIENTS_LOGIN)
        step = (
            "If that is meant, say so: `access: {public: …}`. Else remove allUsers from its invokers; then `pulumi up`."
        )
        return Line(
            "bad", f"{text}. Google lets everybody through to it, though by the stack its access is {access}.", step
        )
    if refusal is None:
        return Line("ok", f"without a token it answers {status}: it is public")
    if server.inside and status == 404:
        return Line("ok", "from outside its network it is not there: 404")
    if status < 300 and is_the_servers(answer.headers):
        return Line(
            "warn" if not server.output else "bad",
            f"without a token it answers: {status}. Everybody may call it.",
            "If it is meant to be private, remove allUsers from its invokers and run `pulumi up`.",
        )
    if status in {301, 302, 303, 307, 308}:
        return Line("warn", f"without a token it redirects to {answer.headers.get('location')}")
    return Line("warn", f"without a token it answers {status}, which is no refusal: who gets in is not known")


def _asks_for_login(answer: _Answer) -> bool:
    """Whether a 401 is the server's own: Google's front end says it in HTML, and only of tokens that prove nothing."""
    html = answer.headers.get("content-type", "").lower().startswith("text/html")
    own = "www-authenticate" in answer.headers and (bool(_metadata(answer)) or not html)
    return answer.status == 401 and own and not is_proxys(answer.status, answer.headers)


def _metadata(answer: _Answer) -> str:
    found = _METADATA.search(answer.headers.get("www-authenticate", ""))
    return f" ({inert(found[1], _SHOWN)})" if found else ""


def _clock_of(answer: _Answer, now: float) -> list[Line]:
    try:
        told = email.utils.parsedate_tz(answer.headers.get("date", ""))
        if told is None:
            return []
        ahead = now - email.utils.mktime_tz(told)
    except (ValueError, OverflowError):
        return []  # no date that there is
    if abs(ahead) <= SKEW_SECONDS:
        return [Line("ok", "this machine's clock agrees with the server's")]
    way = "ahead of" if ahead > 0 else "behind"
    step = f"Set the clock ({SET_CLOCK}): tokens are good for certain seconds only."
    return [Line("bad", f"this machine's clock is {abs(ahead):.0f} s {way} the server's", step)]


def _token(token: IdToken, server: DeployedServer, auth: IdTokenAuth) -> Line:
    text = f"the token is for {token.audience or 'nobody'} and names {token.member or 'nobody by email'}"
    person = token.member.startswith("user:")
    if not person and token.audience not in {auth.tokens.audience, server.target.origin}:
        return Line("bad", text, f"It should be for {auth.tokens.audience}; give that with --audience.")
    return Line("ok", f"{text} ({auth.tokens.source.name})")


def _of_sse(answer: _Answer, server: DeployedServer, how: str) -> Line | None:
    """What is seen of a server that takes no POST at its URL, for it speaks the deprecated transport alone."""
    if not server.sse_alone or answer.status != 405:
        return None
    step = f"Ask it with `mcpfleet verify {server.name}`, which speaks that."
    return Line("skip", f"{how} it answers 405, as a server that speaks SSE alone does", step)


def _refused(answer: _Answer, server: DeployedServer, caller: CallerIdentity, how: str) -> Line | None:
    """What an answer says of the caller or of the way; None where the MCP server had the request."""
    if _asks_for_login(answer):
        step = (
            "The ID token has let you through to it. For its own login, have a client go through `mcpfleet proxy`, "
            "which passes the client's header Authorization on."
        )
        return Line("bad", f"{how} the server itself asks for a login: 401{_metadata(answer)}", step)
    found = diagnose(answer.status, answer.headers, server.target, caller)
    if found is not None:
        return Line("bad", f"{how}: {found.status}: {found.cause}", found.step)
    if answer.status == 421:
        step = "Put its host into the server's allowed hosts; the fleet does this for the URLs that it knows."
        return Line("bad", f"{how}: 421: the server does not answer to the host {server.target.host}", step)
    return None


async def _mcp(http: httpx2.AsyncClient, server: DeployedServer, answer: _Answer, auth: httpx2.Auth, how: str) -> Line:
    """Whether an answer to `initialize` is an MCP server's."""
    found = jsonrpc.decode(answer.body)
    formed = None if found is None else jsonrpc.answer(found, 1)
    if found is None or formed is None or ("error" in formed and found.get("jsonrpc") != "2.0"):
        step = _PATH if answer.status < 300 or answer.status in {404, 405} else read_log(server.target)
        if answer.status < 300 and is_stream(answer.response):
            return Line("bad", f"{how} it answers {answer.status} with a stream that ends without an answer", step)
        return Line("bad", f"{how} it answers {answer.status} with {answer.kind}, not MCP{answer.said}", step)
    if "error" in formed:
        return await _modern(http, server, auth, how) or Line(
            "bad", f"{how} the MCP server itself answers {answer.status}: {inert(formed['error']['message'], _SHOWN)}"
        )
    if answer.status >= 300 or not isinstance(formed["result"].get("protocolVersion"), str):
        return Line("bad", f"{how} it answers {answer.status} with JSON-RPC, but not MCP{answer.said}", _PATH)
    if found != formed or type(found["id"]) is not int:
        step = (
            'An answer has "jsonrpc": "2.0", the request\'s id, and one of result and error. `connect` puts others '
            "right; a client that calls the URL itself may wait for ever."
        )
        return Line("warn", f"{how} an MCP server answers, but not in JSON-RPC's form{answer.said}", step)
    return Line("ok", f"{how} an MCP server answers ({answer.status})")


async def _modern(http: httpx2.AsyncClient, server: DeployedServer, auth: httpx2.Auth, how: str) -> Line | None:
    """What a server says that refuses the handshake, and speaks the revision without one; None where it does not."""
    answer = await _asked(http, server.target.mcp_url, auth, _DISCOVER)
    found = jsonrpc.decode(answer.body)
    if answer.status >= 300 or found is None or "result" not in (jsonrpc.answer(found, 1) or {}):
        return None
    return Line("ok", f"{how} an MCP server answers ({answer.status}); it speaks 2026-07-28, and refuses older clients")
