"""The resource server of `access: oauth`: who has no token learns where to get one, who has one is let in by it.

What the MCP specification asks (2026-07-28 and 2025-11-25, "Authorization"): protected-resource metadata (RFC 9728),
a 401 that points to it, tokens made for this server and nobody else (RFC 8707), a 403 that names the missing scopes.
Tokens are JWTs (RFC 9068); their keys are those of the issuer's own metadata (RFC 8414, or OpenID Connect's).

Not here: logging in. That is the authorization server's, and no token is ever passed on to another service.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlsplit, urlunsplit

import jwt
import pydantic_core
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.types import Scope, Send

from mcpfleet_server.caller import Caller, caller_of_claims, current_caller
from mcpfleet_server.hosting.principal import introduce
from mcpfleet_server.hosting.responses import Headers, refuse, to_json
from mcpfleet_server.hosting.settings import Settings
from mcpfleet_server.keys import KeysError, PublicKeys

logger = logging.getLogger(__name__)

# Signatures by a private key only: with a shared secret, or none, the issuer's public key would open the door.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

_METADATA_PREFIX: Final = "/.well-known/oauth-protected-resource"
_DOCUMENT_SECONDS: Final = 5.0
_LOAD_SECONDS: Final = 10.0
_DOWN_SECONDS: Final = 5
_LEEWAY_SECONDS: Final = 30
_MAX_DOCUMENT: Final = 1024 * 1024
_MAX_TOKEN: Final = 16 * 1024


_UNDESCRIBED: Final = re.compile(r"[^\x20-\x7e]")
"""What an error_description may not hold (RFC 6750, section 3), line ends above all."""


class TokenError(Exception):
    """A token is not valid here; the text is for the client."""


Fetch = Callable[[str], Awaitable[object]]


async def fetch_json(url: str) -> object:
    """Get a JSON document over HTTPS.

    Raises:
        KeysError: There is none, it is too large, or it does not come in time.
    """
    import httpx2

    # Nothing packed: a few bytes could be unpacked to more than the memory holds.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with (
            # Over the whole of it: the client's own limit starts anew with each byte.
            asyncio.timeout(_DOCUMENT_SECONDS),
            httpx2.AsyncClient(timeout=_DOCUMENT_SECONDS, follow_redirects=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise KeysError(f"{url} answered {response.status_code}")
            if (coding := response.headers.get("content-encoding", "identity")) != "identity":
                raise KeysError(f"{url} is packed ({coding}), though identity was asked for")
            body = b""
            async for part in response.aiter_raw():
                body += part
                if len(body) > _MAX_DOCUMENT:
                    raise KeysError(f"{url} is larger than {_MAX_DOCUMENT} bytes")
        return pydantic_core.from_json(body)
    except TimeoutError as error:
        raise KeysError(f"{url} took longer than {_DOCUMENT_SECONDS:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise KeysError(f"{url}: {error}") from error


class Keys(PublicKeys):
    """The public keys of an issuer, found through its metadata."""

    def __init__(self, issuer: str, fetch: Fetch | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(self._read_in_time, clock, _DOWN_SECONDS)
        self._issuer = issuer
        self._fetch = fetch or fetch_json

    async def key(self, key_id: str | None) -> jwt.PyJWK:
        """The key of that id; without an id, the only one.

        Raises:
            KeysError: The issuer can't be asked.
            TokenError: It has no such key.
        """
        if (found := await self.find(key_id)) is None:
            raise TokenError("The token is signed by a key that the issuer does not publish")
        return found

    async def _read_in_time(self) -> Mapping[str | None, jwt.PyJWK]:
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                return await self._load()
        except TimeoutError:
            raise KeysError(f"{self._issuer} took longer than {_LOAD_SECONDS:g} s") from None

    async def _load(self) -> dict[str | None, jwt.PyJWK]:
        document = _mapping(await self._fetch(await self._keys_url()))
        keys: dict[str | None, jwt.PyJWK] = {}
        entries = document.get("keys")
        for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
            members = _mapping(entry)
            if members.get("use", "sig") != "sig":
                continue
            try:
                key = jwt.PyJWK(dict(members))
                key_id = key.key_id
            except (jwt.PyJWTError, TypeError, ValueError):
                continue  # of a kind that we do not know
            if key.algorithm_name in ALGORITHMS and (key_id is None or isinstance(key_id, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
                keys[key_id] = key
        if not keys:
            raise KeysError("the issuer publishes no key that we can use")
        return keys

    async def _keys_url(self) -> str:
        failures: list[str] = []
        for url in metadata_urls(self._issuer):
            try:
                document = _mapping(await self._fetch(url))
            except KeysError as error:
                failures.append(str(error))
                continue
            # RFC 8414, 3.3: a document of another issuer is somebody else's.
            if document.get("issuer") != self._issuer:
                failures.append(f"{url} names the issuer {document.get('issuer')!r}")
                continue
            keys_url = document.get("jwks_uri")
            if isinstance(keys_url, str) and _as_safe(keys_url, self._issuer):
                return keys_url
            failures.append(f"{url} has no https jwks_uri")
        raise KeysError("; ".join(failures))


def metadata_urls(issuer: str) -> Sequence[str]:
    """Where an issuer's metadata can be, in the order of the MCP specification."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")

    def at(path: str) -> str:
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    kinds = ("oauth-authorization-server", "openid-configuration")
    urls = [at(f"/.well-known/{kind}{path}") for kind in kinds]
    return [*urls, at(f"{path}/.well-known/openid-configuration")] if path else urls


def _as_safe(url: str, issuer: str) -> bool:
    try:
        return urlsplit(url).scheme in ("https", urlsplit(issuer).scheme)
    except ValueError:
        return False


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Resource:
    """What is protected.

    Attributes:
        url: The endpoint's own URL, its name for clients and issuers.
        issuer: The authorization server.
        audience: What `aud` must hold.
        scopes: What every request needs.
        tool_scopes: What single tools need besides.
    """

    url: str
    issuer: str
    audience: str
    scopes: frozenset[str]
    tool_scopes: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, settings: Settings) -> "Resource":
        """From the environment; it has been checked that issuer and base URL are there."""
        url = str(settings.resource)
        return cls(
            url=url,
            issuer=str(settings.oauth_issuer),
            audience=settings.oauth_audience or url,
            scopes=frozenset(settings.oauth_scopes),
            tool_scopes={tool: frozenset(scopes.split("+")) for tool, scopes in settings.oauth_tool_scopes.items()},
        )


class OAuthGate:
    """Lets in who has a valid token for this server."""

    everywhere: Final = False

    def __init__(self, resource: Resource, keys: Keys) -> None:
        self._resource = resource
        self._keys = keys
        parts = urlsplit(resource.url)
        own_path = f"{_METADATA_PREFIX}{parts.path}"
        self._metadata_url = urlunsplit((parts.scheme, parts.netloc, own_path, "", ""))
        every_scope = resource.scopes.union(*resource.tool_scopes.values())
        document: dict[str, object] = {
            "resource": resource.url,
            "authorization_servers": [resource.issuer],
            "bearer_methods_supported": ["header"],
        }
        if every_scope:
            document["scopes_supported"] = sorted(every_scope)
        body = to_json(document)
        self._documents = {own_path: body, _METADATA_PREFIX: body}

    @classmethod
    def of(cls, settings: Settings) -> "OAuthGate":
        """The gate that the environment asks for."""
        resource = Resource.of(settings)
        return cls(resource, Keys(resource.issuer))

    def metadata(self, path: str) -> bytes | None:
        """The protected-resource metadata, at its path and at the plain one that older clients try."""
        return self._documents.get(path)

    async def admit(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Whether the request may pass; if not, it has been answered."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if not token or kind.lower() != "bearer":
            # No error code: a client that has shown no token has done nothing wrong (RFC 6750, 3.1).
            await self._challenge(send, 401, "A token is needed", None, self._resource.scopes)
            return False
        try:
            caller = await self._caller(token.strip())
        except TokenError as error:
            await self._challenge(send, 401, str(error), "invalid_token", self._resource.scopes)
            return False
        except KeysError:
            logger.exception("No token can be checked: the issuer %s does not answer", self._resource.issuer)
            retry = (b"retry-after", b"%d" % _DOWN_SECONDS)
            await refuse(send, 503, INTERNAL_ERROR, "The authorization server can't be reached", headers=(retry,))
            return False
        if missing := self._resource.scopes - caller.scopes:
            await self._challenge(
                send, 403, f"Missing scope: {' '.join(sorted(missing))}", "insufficient_scope", self._resource.scopes
            )
            return False
        self._introduce(caller, token.strip(), scope)
        return True

    def missing(self, tool: object) -> frozenset[str]:
        """The scopes that the caller of this request lacks for a tool."""
        needed = self._resource.tool_scopes
        if not isinstance(tool, str):
            return frozenset()
        scopes = needed.get(tool, needed.get("*", frozenset()))
        caller = current_caller()
        return scopes - (frozenset() if caller is None else caller.scopes)

    async def refuse_tool(self, send: Send, missing: frozenset[str], request_id: str | int) -> None:
        """Answer 403 with the scopes that would do, so that the client can ask for them (RFC 6750, 3.1)."""
        caller = current_caller()
        held = frozenset[str]() if caller is None else caller.scopes
        await self._challenge(
            send,
            403,
            f"Missing scope: {' '.join(sorted(missing))}",
            "insufficient_scope",
            missing | self._resource.scopes | held,
            request_id,
        )

    async def _caller(self, token: str) -> Caller:
        if len(token) > _MAX_TOKEN:
            raise TokenError("The token is too long")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise TokenError("The token is not a JWT") from error
        if header.get("alg") not in ALGORITHMS:
            raise TokenError("The token is signed in a way that is not accepted")
        key_id = header.get("kid")
        key = await self._keys.key(key_id if isinstance(key_id, str) else None)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._resource.audience,
                issuer=self._resource.issuer,
                leeway=_LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            raise TokenError(f"The token is not valid: {error}") from error
        caller = caller_of_claims(claims, _scopes(claims))
        if caller is None:
            raise TokenError("The token names nobody")
        return caller

    def _introduce(self, caller: Caller, token: str, scope: Scope) -> None:
        """Tell tools, and the SDK, who calls."""
        client = caller.claims.get("client_id") or caller.claims.get("azp") or caller.subject
        user = AuthenticatedUser(
            AccessToken(
                token=token,
                client_id=str(client),
                scopes=sorted(caller.scopes),
                expires_at=int(caller.claims["exp"]),
                resource=self._resource.url,
                subject=caller.subject,
                claims=dict(caller.claims),
            )
        )
        introduce(caller, scope, user)

    async def _challenge(
        self,
        send: Send,
        status: int,
        message: str,
        error: str | None,
        scopes: frozenset[str],
        request_id: str | int | None = None,
    ) -> None:
        parts = [f'resource_metadata="{self._metadata_url}"']
        if scopes:
            parts.append(f'scope="{" ".join(sorted(scopes))}"')
        if error is not None:
            described = _UNDESCRIBED.sub("?", message.replace('"', "'").replace("\\", "/"))
            parts += [f'error="{error}"', f'error_description="{described}"']
        challenge = (b"www-authenticate", f"Bearer {', '.join(parts)}".encode())
        await refuse(send, status, INVALID_REQUEST, message, request_id, headers=(challenge,))


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scope` (RFC 9068) or `scp`, as a text or a list."""
    value: object = claims.get("scope", claims.get("scp", ""))
    if isinstance(value, list):
        return frozenset(str(one) for one in cast("list[object]", value))
    return frozenset(str(value).split())
