"""Checks that a deployed service rejects callers without a token, with a wrong token, and without permission to call.

A refusal is the response that the service's kind of access has for it, and nothing else. Any other status, a redirect,
an error or a timeout does not prove that the caller is refused, so the check fails. Bodies are not read.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx2

from mcpfleet.auth import SERVERLESS_AUTHORIZATION, IdTokenAuth
from mcpfleet.diagnosis import is_from_iap
from mcpfleet.stack import DeployedClient, DeployedServer
from mcpfleet.target import Target
from mcpfleet.token_sources import TokenSource

PING: Final = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
HEADERS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}

_OTHER_AUDIENCE: Final = "https://another.example"
_GOOGLE_ISSUER: Final = "https://accounts.google.com"
_AUTHORIZATION: Final = "Authorization"
_LOGIN: Final = "401 that names the resource's metadata"
_NO_METADATA: Final = ", and its WWW-Authenticate header has no resource_metadata (RFC 9728)"
_INVALID_BODY: Final = b"?"
"""Invalid JSON: an app that accepts the caller rejects the body, and so does nothing."""


@dataclass(frozen=True)
class Callers:
    """The identities that the checks call as. Each is None if this machine does not have one.

    Attributes:
        invoker: An identity that may call the service.
        not_invoker: An existing identity that may not call the service.
        any_audience: An identity that can get a token for any audience. A person's login cannot.
    """

    invoker: TokenSource | None
    not_invoker: TokenSource | None = None
    any_audience: TokenSource | None = None


@dataclass(frozen=True)
class Probe:
    """A request that the service must refuse for callers without access.

    Attributes:
        method: The HTTP method.
        url: The URL.
        body: The body, if it has one.
        is_internal: Whether the URL may be open to the project's networks only, and return 404 to all others.
    """

    method: str
    url: str
    body: bytes | None = None
    is_internal: bool = False


@dataclass(frozen=True)
class Attempt:
    """An attempt to call a service without access to it, which the service must refuse.

    Attributes:
        text: The caller and the expected response, for the report.
        credentials: Headers, or the auth that sets them; each is tried with each probe.
        is_refused: Returns whether a response is the expected refusal.
        hint: What is missing in a 401 that is not the expected refusal.
    """

    text: str
    credentials: Sequence[Mapping[str, str] | httpx2.Auth]
    is_refused: Callable[[httpx2.Response], bool]
    hint: str = ""


def server_probes(server: DeployedServer) -> Iterator[Probe]:
    """The probes for a server: one for each of its URLs and transports."""
    origins = {server.target.origin: False}
    for url in server.urls:
        origins.setdefault(Target.parse(url).origin, server.output.get("ingress", "all") != "all")
    path = server.target.mcp_url.removeprefix(server.target.origin)
    transports = server.output.get("transports") or ("streamable-http",)
    for origin, is_internal in origins.items():
        if "streamable-http" in transports:
            yield Probe("POST", f"{origin}{path}", json.dumps(PING).encode(), is_internal)
        if "sse" in transports:
            yield Probe("GET", f"{origin}{path if server.is_sse_only else '/sse'}", None, is_internal)
            yield Probe("POST", f"{origin}/messages/?session_id={'0' * 32}", json.dumps(PING).encode(), is_internal)


def client_probes(client: DeployedClient) -> Iterator[Probe]:
    """The probes for a client, which may be any app: its page first, then the routes of `mcp_client`."""
    origin = client.target.origin
    yield Probe("GET", f"{origin}/")
    yield Probe("POST", f"{origin}/ask", _INVALID_BODY)
    yield Probe("POST", f"{origin}/", _INVALID_BODY)


def attempts(service: DeployedServer | DeployedClient, callers: Callers, now: float) -> Iterator[Attempt]:
    """The attempts that a service has to refuse, by its kind of access.

    Args:
        service: The service.
        callers: The identities that the attempts use.
        now: Unix time in seconds.
    """
    audience = service.audience
    match service.access:
        case "iap":
            yield Attempt("without a token: refused by IAP", [{}], _is_refused_by_iap)
            yield Attempt(
                "with a made-up token: refused by IAP",
                _forged_tokens(audience, now, _AUTHORIZATION),
                _is_refused_by_iap,
            )
            if callers.any_audience is not None:
                other_audience = IdTokenAuth(_OTHER_AUDIENCE, callers.any_audience, header=_AUTHORIZATION)
                yield Attempt("with a token for another audience: refused by IAP", [other_audience], _is_refused_by_iap)
            if callers.not_invoker is not None and service.program_audience:
                auth = IdTokenAuth(service.program_audience, callers.not_invoker, header=_AUTHORIZATION)
                yield Attempt("as a member whom IAP does not let through: refused by IAP", [auth], _is_refused_by_iap)
        case "oauth" | "login":
            yield Attempt(f"without a token: {_LOGIN}", [{}], _requires_login, _NO_METADATA)
            output: object = service.output.get("oauth")
            oauth = cast("dict[str, Any]", output) if isinstance(output, dict) else {}
            scope = " ".join(map(str, oauth.get("scopes") or ()))
            oauth_audience, issuer = str(oauth.get("audience") or audience), str(oauth.get("issuer") or _GOOGLE_ISSUER)
            forged = _forged_tokens(oauth_audience, now, _AUTHORIZATION, issuer=issuer, scope=scope)
            yield Attempt(f"with a made-up token: {_LOGIN}", forged, _requires_login, _NO_METADATA)
            if callers.not_invoker is not None:
                auth = IdTokenAuth(audience, callers.not_invoker, header=_AUTHORIZATION)
                yield Attempt(f"with an ID token of Google's: {_LOGIN}", [auth], _requires_login, _NO_METADATA)
        case "public":
            return
        case _:  # iam, and kinds that this version does not know
            yield Attempt("without a token: 403", [{}], _has_status(403))
            yield Attempt("with a made-up token: 401", _forged_tokens(audience, now), _has_status(401))
            if callers.any_audience is not None:
                other_audience = IdTokenAuth(_OTHER_AUDIENCE, callers.any_audience)
                yield Attempt("with a token for another audience: 401", [other_audience], _has_status(401))
            if callers.not_invoker is not None:
                auth = IdTokenAuth(audience, callers.not_invoker)
                yield Attempt("as a member who is no invoker: 403", [auth], _has_status(403))


def skipped_attempts(service: DeployedServer | DeployedClient, callers: Callers) -> Iterator[str]:
    """One line for each attempt that these callers cannot make, with the reason."""
    if service.access in {"iam", "iap"} and callers.any_audience is None:
        yield "with a token for another audience: not checked; your identity cannot get one"
    if service.access == "iam" and callers.not_invoker is None:
        yield "as a member who is no invoker: not checked; name such an account with --not-invoker"
    if service.access == "iap" and not (service.program_audience and callers.not_invoker):
        yield "as a member whom IAP does not let through: not checked; no such account has a token that IAP accepts"


async def try_attempt(http: httpx2.AsyncClient, probes: Sequence[Probe], attempt: Attempt) -> str | None:
    """Send each probe with each of the attempt's credentials.

    Returns:
        The first response that is not a refusal, described for the report; None if all are refused.
    """
    for probe in probes:
        for credentials in attempt.credentials:
            response = await send_probe(http, probe, credentials)
            if probe.is_internal and response.status_code == 404:
                continue
            if not attempt.is_refused(response):
                hint = attempt.hint if response.status_code == 401 else ""
                return f"{probe.method} {probe.url} returned {response.status_code}{hint}"
    return None


async def send_probe(
    http: httpx2.AsyncClient, probe: Probe, credentials: Mapping[str, str] | httpx2.Auth
) -> httpx2.Response:
    """Send one probe; returns the response, whose body is not read.

    Raises:
        httpx2.HTTPError: There is no response.
    """
    auth = credentials if isinstance(credentials, httpx2.Auth) else None
    headers = {**HEADERS, **(credentials if isinstance(credentials, Mapping) else {})}
    async with http.stream(probe.method, probe.url, content=probe.body, headers=headers, auth=auth) as response:
        return response


def _has_status(status: int) -> Callable[[httpx2.Response], bool]:
    return lambda response: response.status_code == status


def _is_refused_by_iap(response: httpx2.Response) -> bool:
    return response.status_code in {302, 401, 403} and is_from_iap(response.status_code, response.headers)


def _requires_login(response: httpx2.Response) -> bool:
    # RFC 9728, 5.1: without it, a client cannot find out how to log in.
    return response.status_code == 401 and "resource_metadata" in response.headers.get("www-authenticate", "")


def _forged_tokens(
    audience: str, now: float, header: str = SERVERLESS_AUTHORIZATION, issuer: str = _GOOGLE_ISSUER, scope: str = ""
) -> Sequence[Mapping[str, str]]:
    """Authorization headers with three tokens that no issuer issued: a word, and two unsigned JWTs with every claim.

    One of the JWTs has the text that Google's front end puts in the place of a signature after it has checked it.
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
    payload = _encode_segment(claims)
    stripped = (
        f"{_encode_segment({'alg': 'RS256', 'typ': 'JWT', 'kid': 'mcpfleet'})}.{payload}.SIGNATURE_REMOVED_BY_GOOGLE"
    )
    unsigned = f"{_encode_segment({'alg': 'none', 'typ': 'JWT'})}.{payload}."
    return [{header: f"Bearer {token}"} for token in ("mcpfleet-verify", unsigned, stripped)]


def _encode_segment(value: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
