"""Checks a deployed client as its invoker: its health, and whether it reaches each of its servers.

A client may be any app, and a request to it may cost money or have effects. So the checks send GET requests only: for
its health, and for `/servers/NAME` (`mcpfleet.reach`). An app without that path does not fail the check.
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
"""The limit for one response: the client's cold start, and its own limit for a server (`mcpfleet.reach`)."""
_MESSAGE_CHARACTERS: Final = 900
"""The most characters of a client's error message that are shown."""


@dataclass(frozen=True)
class ClientCheckResult:
    """The result of one check.

    Attributes:
        kind: `skip` if the check could not be made.
        text: The result, for the report.
    """

    kind: Literal["ok", "bad", "skip"]
    text: str


async def check_client(
    client: DeployedClient, http: httpx2.AsyncClient, auth: IdTokenAuth | None, seconds: float
) -> list[ClientCheckResult]:
    """Run all checks of a client concurrently.

    Args:
        client: The client.
        http: The HTTP client, which sends the token of *auth*.
        auth: The identity of the requests; None for a public client.
        seconds: The limit for one response.
    """
    caller = "without a token" if auth is None else "as an invoker"
    path = str(client.output.get("health_path") or "/")

    async def limit_time(text: str, check: Awaitable[ClientCheckResult]) -> ClientCheckResult:
        try:
            async with asyncio.timeout(seconds):
                return await check
        except TimeoutError:
            reason = f"no answer within {seconds:g} s"
        except (httpx2.HTTPError, AuthError) as error:
            reason = connection_reason(error)
        return ClientCheckResult("bad", f"{text}: {reason}")

    async def check_health() -> ClientCheckResult:
        response = await http.get(f"{client.target.origin}{path}")
        status = response.status_code
        # Without a health path, any response of the app shows that it runs and accepts its invoker.
        is_healthy = response.is_success or (path == "/" and 400 <= status < 500 and status not in {401, 403})
        text = f"{caller}: GET {path} returned {status}"
        return ClientCheckResult("ok", text) if is_healthy else ClientCheckResult("bad", text + cause_text(response))

    async def check_server(name: str) -> ClientCheckResult:
        response = await http.get(f"{client.target.origin}/servers/{name}")
        body = jsonrpc.decode(response.content) or {}
        if body.get("server") != name:
            if response.status_code in {401, 403} or response.status_code >= 500 or response.is_redirect:
                cause = f"GET /servers/{name} returned {response.status_code}{cause_text(response)}"
                return ClientCheckResult("bad", f"through it, {name} could not be checked: {cause}")
            return ClientCheckResult(
                "skip", f"through it, {name}: not checked; it has no GET /servers/NAME (mcpfleet.reach)"
            )
        if response.is_success and type(body.get("tools")) is int:
            return ClientCheckResult("ok", f"through it, {name} answers: {body['tools']} tools listed")
        error: object = body.get("error")
        message = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else None
        status = cast("dict[str, Any]", error).get("status") if isinstance(error, dict) else None
        refused = f"{status}: " if type(status) is int else ""
        reason = inert(str(message or "no reason given"), _MESSAGE_CHARACTERS)
        return ClientCheckResult("bad", f"through it, {name} does not answer: {refused}{reason}")

    def cause_text(response: httpx2.Response) -> str:
        if auth is None:
            return ""
        diagnosis = diagnose(response.status_code, response.headers, client.target, auth.tokens.caller)
        return f": {diagnosis.cause}" if diagnosis else ""

    return await asyncio.gather(
        limit_time(f"{caller}: GET {path}", check_health()),
        *(limit_time(f"through it, {name} could not be checked", check_server(name)) for name in client.calls),
    )
