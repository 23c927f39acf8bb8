"""`mcpfleet doctor SERVER`: why a URL does not answer as it should, hop by hop, and what to type."""

from __future__ import annotations

import asyncio
import email.utils
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import httpx2

from mcpfleet.auth import IdTokenAuth
from mcpfleet.bounds import AS_IT_IS, CHECK_SECONDS, FEW_BRACKETS, IN_ALL, Bound, check_seconds, max_answer
from mcpfleet.diagnosis import diagnose, is_the_servers
from mcpfleet.doors import Callers, attempts
from mcpfleet.errors import AuthError
from mcpfleet.net import connection_reason
from mcpfleet.sources import TokenSource
from mcpfleet.stack import Server
from mcpfleet.system import SET_CLOCK
from mcpfleet.tokens import IdToken

SKEW_SECONDS: Final = 60.0
"""A token's times are whole seconds, and Google's checks leave this much room."""

_HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
_INITIALIZE: Final = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "mcpfleet-doctor", "version": "1"},
    },
}


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
    server: Server,
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
    server: Server,
    source: TokenSource | None,
    transport: httpx2.AsyncBaseTransport | None,
    clock: Callable[[], float],
) -> list[Line]:
    target = server.target
    async with httpx2.AsyncClient(
        transport=transport,
        timeout=check_seconds(),
        trust_env=not target.on_this_machine,
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
        if source is None:
            return lines
        auth = IdTokenAuth(server.audience, source, clock=clock)
        try:
            token = await auth.tokens.aget()
        except AuthError as error:
            return [*lines, Line("bad", "there is no token to call with", str(error))]
        lines.append(_token(token, server, auth))
        try:
            lines.append(_with_token(await _asked(http, target.mcp_url, auth), server, auth))
        except (httpx2.HTTPError, TimeoutError) as error:
            lines.append(Line("bad", f"with the token there is no answer: {connection_reason(error)}"))
        return lines


async def _asked(http: httpx2.AsyncClient, url: str, auth: httpx2.Auth) -> httpx2.Response:
    """The whole answer, in the time that a check may take however it drips."""
    seconds = check_seconds()
    try:
        async with asyncio.timeout(seconds):
            return await http.post(url, json=_INITIALIZE, headers=_HEADERS, auth=auth)
    except TimeoutError:
        raise TimeoutError(f"its answer was not whole after {seconds:g} s ({CHECK_SECONDS})") from None


def _without_token(server: Server, response: httpx2.Response) -> Line:
    """Whether the answer is the refusal that the server's kind of access has; any other leaves open who gets in."""
    status = response.status_code
    refusal = next(attempts(server, Callers(None), 0.0), None)
    if refusal is None:
        return Line("ok", f"without a token it answers {status}: it is public")
    if refusal.refused(response):
        return Line("ok", f"without a token it refuses: {status}")
    if server.inside and status == 404:
        return Line("ok", "from outside its network it is not there: 404")
    if status < 300 and is_the_servers(response.headers):
        return Line(
            "warn" if not server.output else "bad",
            f"without a token it answers: {status}. Everybody may call it.",
            "If it is meant to be private, remove allUsers from its invokers and run `pulumi up`.",
        )
    if status in {301, 302, 307, 308}:
        return Line("warn", f"without a token it redirects to {response.headers.get('location')}")
    return Line("warn", f"without a token it answers {status}, which is no refusal: who gets in is not known")


def _clock_of(response: httpx2.Response, now: float) -> list[Line]:
    try:
        told = email.utils.parsedate_tz(response.headers.get("date", ""))
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


def _token(token: IdToken, server: Server, auth: IdTokenAuth) -> Line:
    text = f"the token is for {token.audience or 'nobody'} and names {token.member or 'nobody by email'}"
    person = token.member.startswith("user:")
    if not person and token.audience not in {server.audience, server.target.origin}:
        return Line("bad", text, f"It should be for {server.audience}; give that with --audience.")
    return Line("ok", f"{text} ({auth.tokens.source.name})")


def _with_token(response: httpx2.Response, server: Server, auth: IdTokenAuth) -> Line:
    found = diagnose(response.status_code, response.headers, server.target, auth.tokens.caller)
    if found is not None:
        return Line("bad", f"with the token: {found.status}: {found.cause}", found.step)
    if response.status_code == 421:
        step = "Put its host into the server's allowed hosts; the fleet does this for the URLs that it knows."
        return Line("bad", f"with the token: 421: the server does not answer to the host {server.target.host}", step)
    if response.status_code >= 400:
        said = " ".join(response.content[:1000].decode("utf-8", "replace").split())[:200]
        return Line("bad", f"with the token the MCP server itself answers {response.status_code}: {said}")
    if not is_the_servers(response.headers):
        kind = response.headers.get("content-type", "nothing")
        return Line("bad", f"with the token it answers {kind}, not MCP", "Is the path right? The default is /mcp.")
    return Line("ok", f"with the token an MCP server answers ({response.status_code})")
