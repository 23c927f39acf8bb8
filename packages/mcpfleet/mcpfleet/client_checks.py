"""What is seen of a deployed client as its invoker, and through it of each server that it is given.

A client is an app that we know nothing of, whose answers may cost and act: so it is asked by GET alone, for its health,
and for `/servers/NAME` (`mcpfleet.reach`), where an app that has no such path is not held to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

import httpx2

from mcpfleet import jsonrpc
from mcpfleet.auth import IdTokenAuth
from mcpfleet.diagnosis import diagnose
from mcpfleet.errors import AuthError
from mcpfleet.inert import inert
from mcpfleet.net import connection_reason
from mcpfleet.stack import DeployedClient

SECONDS: Final = 30.0
"""How long one answer may take: the client's own cold start, and what it waits for a server (`mcpfleet.reach`)."""
_SAID: Final = 900
"""Characters that are shown of what a client says."""


@dataclass(frozen=True)
class Seen:
    """One finding.

    Attributes:
        kind: Whether it is as it must be; `skip` where it could not be found out.
        words: The finding.
    """

    kind: Literal["ok", "bad", "skip"]
    words: str


async def seen_of(
    client: DeployedClient, http: httpx2.AsyncClient, auth: IdTokenAuth | None, seconds: float
) -> list[Seen]:
    """What the client answers, asked all at once.

    Args:
        client: The client.
        http: Carries the token of *auth*.
        auth: As whom it is asked; None where anybody may.
        seconds: How long one answer may take.
    """
    who = "without a token" if auth is None else "as an invoker"
    path = str(client.output.get("health_path") or "/")

    async def within(words: str, asked: Awaitable[Seen]) -> Seen:
        try:
            async with asyncio.timeout(seconds):
                return await asked
        except TimeoutError:
            wrong = f"no answer within {seconds:g} s"
        except (httpx2.HTTPError, AuthError) as error:
            wrong = connection_reason(error)
        return Seen("bad", f"{words}: {wrong}")

    async def health() -> Seen:
        response = await http.get(f"{client.target.origin}{path}")
        status = response.status_code
        # Without a path of its own for it, any answer shows that it runs and lets in whom it should.
        well = response.is_success or (path == "/" and 400 <= status < 500 and status not in {401, 403})
        words = f"{who}: GET {path} was answered {status}"
        return Seen("ok", words) if well else Seen("bad", words + _why(response))

    async def server(name: str) -> Seen:
        response = await http.get(f"{client.target.origin}/servers/{name}")
        found = jsonrpc.decode(response.content) or {}
        if found.get("server") != name:
            if response.status_code in {401, 403} or response.status_code >= 500 or response.is_redirect:
                wrong = f"GET /servers/{name} was answered {response.status_code}{_why(response)}"
                return Seen("bad", f"through it, {name} is not seen to answer: {wrong}")
            return Seen("skip", f"whether {name} answers it: not asked; it has no GET /servers/NAME (mcpfleet.reach)")
        if response.is_success and type(found.get("tools")) is int:
            return Seen("ok", f"through it, {name} answers: {found['tools']} tools listed")
        error: object = found.get("error")
        said = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
        status = cast("dict[str, Any]", error).get("status") if isinstance(error, dict) else None
        refused = f"{status}: " if type(status) is int else ""
        reason = inert(str(said or "no reason given"), _SAID)
        return Seen("bad", f"through it, {name} does not answer: {refused}{reason}")

    def _why(response: httpx2.Response) -> str:
        if auth is None:
            return ""
        found = diagnose(response.status_code, response.headers, client.target, auth.tokens.caller)
        return f": {found.cause}" if found else ""

    return await asyncio.gather(
        within(f"{who}: GET {path}", health()),
        *(within(f"through it, {name} is not seen to answer", server(name)) for name in client.calls),
    )
