"""Whether a deployed service refuses whom it must: who has no token, who has a wrong one, and who may not call.

A refusal is the answer that the service's kind of access has for it and nothing else: any other status, a redirect, an
error, no answer in time leave open who is let in, and that is not passed. Bodies are not read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx2

from mcpfleet.auth import SERVERLESS_AUTHORIZATION, IdTokenAuth
from mcpfleet.diagnosis import is_proxys
from mcpfleet.stack import DeployedClient, DeployedServer
from mcpfleet.target import Target
from mcpfleet.token_sources import TokenSource

PING: Final = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

_ELSEWHERE: Final = "https://another.example"
_GOOGLE: Final = "https://accounts.google.com"
_PLAIN: Final = "Authorization"
_LOGIN: Final = "401 that names the resource's metadata"
_NO_WAY: Final = ", and its WWW-Authenticate names no resource_metadata (RFC 9728)"
_NO_JSON: Final = b"?"
"""What an app that would let us in could do nothing with."""


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
class AccessCheck:
    """One way into a service.

    Attributes:
        method: The HTTP method.
        url: Where.
        body: What is sent.
        inside: Whether it may be there for the project's networks only, and answer everybody else 404.
    """

    method: str
    url: str
    body: bytes | None = None
    inside: bool = False


@dataclass(frozen=True)
class Attempt:
    """Something that must be refused.

    Attributes:
        words: Who tries, and what the answer has to be.
        credentials: What is shown, one after the other at each door: headers, or what makes them.
        refused: Whether an answer is the refusal.
        hint: What a 401 that is none lacks.
    """

    words: str
    credentials: Sequence[Mapping[str, str] | httpx2.Auth]
    refused: Callable[[httpx2.Response], bool]
    hint: str = ""


def of_server(server: DeployedServer) -> Iterator[AccessCheck]:
    """The ways into a server: each of its URLs, by each of its transports."""
    origins = {server.target.origin: False}
    for url in server.urls:
        origins.setdefault(Target.parse(url).origin, server.output.get("ingress", "all") != "all")
    path = server.target.mcp_url.removeprefix(server.target.origin)
    transports = server.output.get("transports") or ("streamable-http",)
    for origin, inside in origins.items():
        if "streamable-http" in transports:
            yield AccessCheck("POST", f"{origin}{path}", json.dumps(PING).encode(), inside)
        if "sse" in transports:
            yield AccessCheck("GET", f"{origin}{path if server.sse_alone else '/sse'}", None, inside)
            yield AccessCheck("POST", f"{origin}/messages/?session_id={'0' * 32}", json.dumps(PING).encode(), inside)


def of_client(client: DeployedClient) -> Iterator[AccessCheck]:
    """The ways into a client, an app that we know nothing of: its page first, and what `mcp_client` answers."""
    origin = client.target.origin
    yield AccessCheck("GET", f"{origin}/")
    yield AccessCheck("POST", f"{origin}/ask", _NO_JSON)
    yield AccessCheck("POST", f"{origin}/", _NO_JSON)


def attempts(service: DeployedServer | DeployedClient, callers: Callers, now: float) -> Iterator[Attempt]:
    """What a service has to refuse, by its kind of access.

    Args:
        service: The service.
        callers: Who calls.
        now: Unix time in seconds.
    """
    audience = service.audience
    match service.access:
        case "iap":
            yield Attempt("without a token: refused by IAP", [{}], _by_proxy)
            yield Attempt("with a made-up token: refused by IAP", _made_up(audience, now, _PLAIN), _by_proxy)
            if callers.elsewhere is not None:
                other = IdTokenAuth(_ELSEWHERE, callers.elsewhere, header=_PLAIN)
                yield Attempt("with a token for another audience: refused by IAP", [other], _by_proxy)
            if callers.stranger is not None and service.program_audience:
                stranger = IdTokenAuth(service.program_audience, callers.stranger, header=_PLAIN)
                yield Attempt("as a member whom IAP does not let through: refused by IAP", [stranger], _by_proxy)
        case "oauth":
            yield Attempt(f"without a token: {_LOGIN}", [{}], _to_login, _NO_WAY)
            said: object = service.output.get("oauth")
            told = cast("dict[str, Any]", said) if isinstance(said, dict) else {}
            scope = " ".join(map(str, told.get("scopes") or ()))
            wanted, issuer = str(told.get("audience") or audience), str(told.get("issuer") or _GOOGLE)
            made_up = _made_up(wanted, now, _PLAIN, issuer=issuer, scope=scope)
            yield Attempt(f"with a made-up token: {_LOGIN}", made_up, _to_login, _NO_WAY)
            if callers.stranger is not None:
                stranger = IdTokenAuth(audience, callers.stranger, header=_PLAIN)
                yield Attempt(f"with an ID token of Google's: {_LOGIN}", [stranger], _to_login, _NO_WAY)
        case "public":
            return
        case _:  # iam, and what is not known
            yield Attempt("without a token: 403", [{}], _is(403))
            yield Attempt("with a made-up token: 401", _made_up(audience, now), _is(401))
            if callers.elsewhere is not None:
                other = IdTokenAuth(_ELSEWHERE, callers.elsewhere)
                yield Attempt("with a token for another audience: 401", [other], _is(401))
            if callers.stranger is not None:
                stranger = IdTokenAuth(audience, callers.stranger)
                yield Attempt("as a member who is no invoker: 403", [stranger], _is(403))


def unasked(service: DeployedServer | DeployedClient, callers: Callers) -> Iterator[str]:
    """What could not be asked with these callers, each in a sentence."""
    if service.access in {"iam", "iap"} and callers.elsewhere is None:
        yield "with a token for another audience: not asked; nobody here can have one"
    if service.access == "iam" and callers.stranger is None:
        yield "as a member who is no invoker: not asked; nobody here is one"
    if service.access == "iap" and not (service.program_audience and callers.stranger):
        yield "as a member whom IAP does not let through: not asked; nobody here is one, with a token that IAP takes"


async def refused(http: httpx2.AsyncClient, doors: Sequence[AccessCheck], attempt: Attempt) -> str | None:
    """Try an attempt at each door, until one does not refuse it: in words which, and None where all do."""
    for door in doors:
        for shown in attempt.credentials:
            response = await ask(http, door, shown)
            if door.inside and response.status_code == 404:
                continue
            if not attempt.refused(response):
                why = attempt.hint if response.status_code == 401 else ""
                return f"{door.method} {door.url} was answered {response.status_code}{why}"
    return None


async def ask(http: httpx2.AsyncClient, door: AccessCheck, shown: Mapping[str, str] | httpx2.Auth) -> httpx2.Response:
    """The answer at a door, without its body.

    Raises:
        httpx2.HTTPError: There is none.
    """
    auth = shown if isinstance(shown, httpx2.Auth) else None
    headers = {**HEADERS, **(shown if isinstance(shown, Mapping) else {})}
    async with http.stream(door.method, door.url, content=door.body, headers=headers, auth=auth) as response:
        return response


def _is(status: int) -> Callable[[httpx2.Response], bool]:
    return lambda response: response.status_code == status


def _by_proxy(response: httpx2.Response) -> bool:
    return response.status_code in {302, 401, 403} and is_proxys(response.status_code, response.headers)


def _to_login(response: httpx2.Response) -> bool:
    # RFC 9728, 5.1: without it no client finds the way to log in.
    return response.status_code == 401 and "resource_metadata" in response.headers.get("www-authenticate", "")


def _made_up(
    audience: str, now: float, header: str = SERVERLESS_AUTHORIZATION, issuer: str = _GOOGLE, scope: str = ""
) -> Sequence[Mapping[str, str]]:
    """Tokens that nobody issued: a word, and two that claim all that could be asked for and are signed by nobody.

    One bears what Google's front end puts in the place of a signature that it has checked.
    """
    claims = {
        "iss": issuer,
        "aud": audience,
        "azp": audience,
        "sub": "0",
        "email": "nobody@another.example",
        "email_verified": True,
        "iat": int(now),
        "exp": int(now) + 3600,
        **({"scope": scope} if scope else {}),
    }
    checked = f"{_part({'alg': 'RS256', 'typ': 'JWT', 'kid': 'mcpfleet'})}.{_part(claims)}.SIGNATURE_REMOVED_BY_GOOGLE"
    unsigned = f"{_part({'alg': 'none', 'typ': 'JWT'})}.{_part(claims)}."
    return [{header: f"Bearer {token}"} for token in ("mcpfleet-verify", unsigned, checked)]


def _part(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
