"""The verified caller of a request, taken only from headers that a caller can't forge.

The service's access mode, which the fleet sets in `MCP_ACCESS`, decides which header is used:

- `iam`: the ID token that Cloud Run has checked. "If both headers are provided in a request, only the
  X-Serverless-Authorization header is checked" (cloud.google.com/run/docs/authenticating/service-to-service), so that
  header is used if it is present, otherwise `Authorization`. The front end replaces the signature of the token that it
  has checked with `SIGNATURE_REMOVED_BY_GOOGLE` (cloud.google.com/run/docs/troubleshooting#signature-removed), and
  passes the other header on unchanged. So the claims can be read, but not verified again. A token that still has its
  signature has not passed a front end.
- `iap`: the assertion of Identity-Aware Proxy, verified (`iap.py`). The proxy calls Cloud Run with its own token in
  `X-Serverless-Authorization` (cloud.google.com/iap/docs/enabling-cloud-run), which does not identify the caller.
- `oauth`: the token that the server itself has verified.
- `login`: the claims in `X-Mcpfleet-Caller`, which the gate in the ingress container (`mcpfleet_login`) writes after
  it has checked the access token. The gate removes that header from what comes in, and nothing else reaches the
  application.
- `public` or unset: no caller is trusted, because anybody can write a token of any form.

`serve` and the stdio bridge follow these rules. A server that serves itself follows them with `CallerMiddleware`.

This module needs only the standard library; with `iap`, the extra `iap`.
"""

import base64
import binascii
import json
import os
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import parse_qsl

from mcpfleet_server.environment import SettingsError, merge_fleet_variables

if TYPE_CHECKING:
    from mcpfleet_server.iap import AssertionVerifier

AccessMode = Literal["iam", "iap", "login", "oauth", "public"]

ACCESS_MODES: Final[tuple[AccessMode, ...]] = ("iam", "iap", "login", "oauth", "public")

LOGIN_HEADER: Final = b"x-mcpfleet-caller"
"""The header in which the gate of `access: login` names the caller: a JSON object of claims in base64url."""

_PREFERRED_HEADER: Final = b"x-serverless-authorization"
_FALLBACK_HEADER: Final = b"authorization"
_REMOVED_SIGNATURE: Final = b"SIGNATURE_REMOVED_BY_GOOGLE"
_GOOGLE_ISSUERS: Final = ("https://accounts.google.com", "accounts.google.com")
_IAP_ISSUER: Final = "https://cloud.google.com/iap"
_IAP_GOOGLE_PREFIX: Final = "accounts.google.com:"
_MAX_TOKEN_BYTES: Final = 16 * 1024
"""Maximum bytes of a token; Google's tokens have about one KiB."""
_CACHE_SIZE: Final = 256
_SESSION_HEADER: Final = b"mcp-session-id"
_MAX_SESSIONS: Final = 10_000
"""Sessions whose callers are remembered. A client whose session is forgotten gets 404, and starts a new one."""


Identity = tuple[str, str]
"""Issuer and subject of a caller. None in its place means that the caller is unknown."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The verified claims about a caller.

    Attributes:
        issuer: The issuer of the token.
        subject: The issuer's permanent ID of the account. It identifies the account only together with the issuer.
        email: The account's address if Google has verified it; for display only.
        scopes: The scopes of an OAuth token; empty for an ID token.
        claims: All claims of the token; read-only for `iam` and `iap`.
    """

    issuer: str
    subject: str
    email: str | None = None
    scopes: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False, compare=False)

    @property
    def identity(self) -> Identity:
        """Issuer and subject: the key for everything that belongs to this caller."""
        return self.issuer, self.subject

    @property
    def name(self) -> str:
        """The caller's name in logs."""
        return self.email or f"{self.issuer} {self.subject}"


_current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller | None:
    """Return the caller of the current request, or None if it is unknown. Works in tools, on every transport."""
    return _current.get()


def bind_caller(caller: Caller | None) -> None:
    """Set the caller for this task and the tasks that it starts."""
    _current.set(caller)


def caller_of_claims(claims: Mapping[str, Any], scopes: frozenset[str] = frozenset()) -> Caller | None:
    """Return the caller that the claims of a verified token name, or None if they name no account.

    An email address counts only if Google has verified it: an ID token of Google with `email_verified`
    (developers.google.com/identity/openid-connect/openid-connect), or an assertion of Identity-Aware Proxy about
    a Google account (cloud.google.com/iap/docs/signed-headers-howto). Other issuers may pass on whatever their users
    have typed.
    """
    issuer, subject, email = claims.get("iss"), claims.get("sub"), claims.get("email")
    if not isinstance(issuer, str) or not isinstance(subject, str) or not issuer or not subject:
        return None
    is_verified = claims.get("email_verified") is True if issuer in _GOOGLE_ISSUERS else False
    is_verified = is_verified or (issuer == _IAP_ISSUER and subject.startswith(_IAP_GOOGLE_PREFIX))
    return Caller(issuer, subject, email if is_verified and isinstance(email, str) and email else None, scopes, claims)


def cloud_run_caller(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """Return the caller whose ID token Cloud Run's front end has checked, or None. Use it only with access `iam`.

    Args:
        headers: The request's header lines as ASGI has them, with lower-case names.
    """
    preferred: bytes | None = None
    fallback: bytes | None = None
    for name, value in headers:
        if name == _FALLBACK_HEADER:
            if fallback is not None:
                return None  # different readers might use different ones as the checked header
            fallback = value
        elif name == _PREFERRED_HEADER:
            if preferred is not None:
                return None
            preferred = value
    credential = fallback if preferred is None else preferred
    return None if credential is None or len(credential) > _MAX_TOKEN_BYTES else _read_credential(credential)


@lru_cache(_CACHE_SIZE)
def _read_credential(credential: bytes) -> Caller | None:
    scheme, _, token = credential.strip(b" \t").partition(b" ")
    parts = token.strip(b" \t").split(b".")
    if scheme.lower() != b"bearer" or len(parts) != 3 or parts[2] != _REMOVED_SIGNATURE:
        return None
    claims = _decode_claims(parts[1])
    return None if claims is None else caller_of_claims(MappingProxyType(claims))


def login_caller(headers: Iterable[tuple[bytes, bytes]]) -> Caller | None:
    """Return the caller that the gate names, or None. Use it only with access `login`, behind the gate.

    Args:
        headers: The request's header lines as ASGI has them, with lower-case names.
    """
    values = [value for name, value in headers if name == LOGIN_HEADER]
    return _read_login(values[0]) if len(values) == 1 and len(values[0]) <= _MAX_TOKEN_BYTES else None


@lru_cache(_CACHE_SIZE)
def _read_login(value: bytes) -> Caller | None:
    claims = _decode_claims(value)
    caller = None if claims is None else caller_of_claims(MappingProxyType(claims))
    if claims is None or caller is None:
        return None
    # The gate passes on an address only if the issuer, which the fleet's owner has chosen, has verified it.
    email, scope = claims.get("email"), claims.get("scope")
    return replace(
        caller,
        email=email if claims.get("email_verified") is True and isinstance(email, str) and email else None,
        scopes=frozenset(scope.split()) if isinstance(scope, str) else frozenset(),
    )


def caller_reader(access: str | None) -> Callable[[Iterable[tuple[bytes, bytes]]], Caller | None] | None:
    """Return the function that reads the caller whom something in front of the container has verified.

    None if nothing has: with that access, the container itself verifies callers, or nobody does.
    """
    return {"iam": cloud_run_caller, "login": login_caller}.get(access or "")


def _decode_claims(payload: bytes) -> dict[str, Any] | None:
    try:
        decoded: object = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else None


def caller_share(limit: int) -> int:
    """Return how much of *limit* one caller may use: three quarters, but never all of two or more.

    The rest is left for other callers. The share does not apply to unknown callers: they can't be told apart, so a
    share would lock out all of them together.
    """
    return max(1, min(limit - 1, -(-limit * 3 // 4)))


def has_full_share(caller: Identity | None, owners: Iterable[Identity | None], limit: int) -> bool:
    """Return whether a caller uses its share of *limit* already.

    Args:
        caller: The caller; always False for an unknown one.
        owners: The caller of each place in use.
        limit: The number of places for all callers.
    """
    return caller is not None and sum(owner == caller for owner in owners) >= caller_share(limit)


_Scope = MutableMapping[str, Any]
_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


class CallerMiddleware:
    """ASGI middleware that makes the verified caller known to `current_caller`, for a server that serves itself.

    Only the caller who began an MCP session can use it; other callers get 404, as for a session that doesn't exist.
    SDKs may run all calls of a session in the context of its first request. Without this check, a caller who knows
    the ID of another caller's session could act as that caller. Messages of the deprecated SSE transport, which has
    no such check, get 404.

    With access `iap`, a request without a valid assertion gets 401, except GET and HEAD without a session: probes.

    Args:
        app: The server's ASGI application.
        environ: The environment, with `MCPFLEET_ACCESS` and `MCPFLEET_IAP_AUDIENCE` as the fleet sets them.
        verifier: Verifies assertions of Identity-Aware Proxy; by default for the audiences of the environment.

    Raises:
        SettingsError: The access is not one of `ACCESS_MODES`, or it is `iap` and there is no audience.
    """

    def __init__(
        self, app: _App, environ: Mapping[str, str] | None = None, verifier: "AssertionVerifier | None" = None
    ) -> None:
        variables = merge_fleet_variables(os.environ if environ is None else environ)
        access = variables.get("MCP_ACCESS", "public")
        if access not in ACCESS_MODES:
            raise SettingsError(f"MCP_ACCESS: {access!r} is not one of {', '.join(ACCESS_MODES)}")
        self._app = app
        self._read_caller = caller_reader(access)
        self._verifier = self._create_verifier(variables, verifier) if access == "iap" else None
        self._owners: OrderedDict[bytes, Identity | None] = OrderedDict()
        self._session_counts: Counter[Identity | None] = Counter()

    @staticmethod
    def _create_verifier(variables: Mapping[str, str], verifier: "AssertionVerifier | None") -> "AssertionVerifier":
        from mcpfleet_server.iap import AssertionVerifier

        audiences = [name.strip() for name in variables.get("MCP_IAP_AUDIENCE", "").split(",") if name.strip()]
        if not audiences:
            raise SettingsError("MCP_IAP_AUDIENCE: required for MCP_ACCESS=iap")
        return verifier or AssertionVerifier(audiences)

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Handle one ASGI connection."""
        bind_caller(None)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = list(scope["headers"])
        sessions = [value for name, value in headers if name == _SESSION_HEADER]
        caller = self._read_caller(headers) if self._read_caller else None
        if self._verifier is not None:
            is_probe = scope["method"] in {"GET", "HEAD"} and not sessions
            caller, status = await _identify_iap_caller(self._verifier, headers, is_probe=is_probe)
            if status:
                await _refuse(send, status)
                return
        identity = None if caller is None else caller.identity
        if _names_sse_session(scope.get("query_string", b"")):
            await _refuse(send, 404)
            return
        if sessions and (len(sessions) > 1 or self._owners.get(sessions[0], _NO_OWNER) != identity):
            await _refuse(send, 404)
            return
        if sessions:
            self._owners.move_to_end(sessions[0])
        bind_caller(caller)

        async def remember(message: _Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in message.get("headers", ()):
                    if name.lower() == _SESSION_HEADER:
                        self._remember_owner(bytes(value), identity)
            await send(message)

        await self._app(scope, receive, remember)

    def _remember_owner(self, session: bytes, identity: Identity | None) -> None:
        """Make a caller the owner of a session that has no owner, even if another caller gets the same ID later."""
        if session in self._owners:
            return
        self._owners[session] = identity
        self._session_counts[identity] += 1
        if len(self._owners) > _MAX_SESSIONS:
            # The sessions of other callers stay if this one has more than its share.
            is_over_share = self._session_counts[identity] > caller_share(_MAX_SESSIONS)
            oldest = next(key for key, owner in self._owners.items() if not is_over_share or owner == identity)
            owner = self._owners.pop(oldest)
            self._session_counts[owner] -= 1
            if not self._session_counts[owner]:
                del self._session_counts[owner]


def _names_sse_session(query: bytes) -> bool:
    """Whether a query has the parameter `session_id`, also percent-encoded, as Starlette decodes it."""
    return bool(query) and any(
        name == "session_id" for name, _ in parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    )


_NO_OWNER: Final = ("", "")
"""Differs from every identity, and from None for an unknown caller."""


async def _identify_iap_caller(
    verifier: "AssertionVerifier", headers: list[tuple[bytes, bytes]], *, is_probe: bool
) -> tuple[Caller | None, int]:
    """Return the caller that the assertion of Identity-Aware Proxy names, and an error's status; 0 without error."""
    from mcpfleet_server.iap import HEADER, KeysError, NoAssertionError

    if is_probe and not any(name == HEADER for name, _ in headers):
        return None, 0
    try:
        caller = caller_of_claims(await verifier.verify(headers))
    except NoAssertionError:
        return None, 401
    except KeysError:
        return None, 503
    return caller, 0 if caller is not None else 401


_REASONS: Final = {
    401: b"This server accepts only requests that pass through Identity-Aware Proxy",
    404: b"This caller has no such session; start a new one",
    503: b"The keys of Identity-Aware Proxy can't be fetched at present; try again",
}


async def _refuse(send: _Send, status: int) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", b"%d" % len(_REASONS[status]))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": _REASONS[status]})
