"""The OAuth resource server of `access: oauth`: checks tokens, and tells clients without one where to get it.

The MCP specification requires (2026-07-28 and 2025-11-25, "Authorization"): protected-resource metadata (RFC 9728),
a 401 that refers to it, tokens issued for this server only (RFC 8707), and a 403 that names the missing scopes.
Tokens are JWTs (RFC 9068). Their keys come from the issuer's metadata (RFC 8414 or OpenID Connect).

Login is the authorization server's task. Tokens are never passed on to another service.
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
from mcpfleet_server.hosting.authentication import bind_sdk_user
from mcpfleet_server.hosting.responses import Headers, refuse, to_json
from mcpfleet_server.hosting.settings import Settings
from mcpfleet_server.keys import KeysError, PublicKeys

logger = logging.getLogger(__name__)

# Only asymmetric signatures: with HMAC, the public key would be enough to sign; with "none", no key at all.
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")

_METADATA_PREFIX: Final = "/.well-known/oauth-protected-resource"
_DOCUMENT_SECONDS: Final = 5.0
_LOAD_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 5
_LEEWAY_SECONDS: Final = 30
_MAX_DOCUMENT_BYTES: Final = 1024 * 1024
_MAX_TOKEN_BYTES: Final = 16 * 1024


_FORBIDDEN_IN_DESCRIPTION: Final = re.compile(r"[^\x20-\x7e]")
"""Characters that an error_description must not contain (RFC 6750, section 3), such as line ends."""


class TokenError(Exception):
    """The token is not valid for this server; the text is for the client."""


Fetch = Callable[[str], Awaitable[object]]


async def fetch_json(url: str) -> object:
    """Fetch a JSON document over HTTPS.

    Raises:
        KeysError: There is no JSON document, it is too large, or it does not arrive in time.
    """
    import httpx2

    # No compression: a few bytes could expand to more than the memory holds.
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with (
            # For the whole request: the client's own timeout restarts with each byte.
            asyncio.timeout(_DOCUMENT_SECONDS),
            httpx2.AsyncClient(timeout=_DOCUMENT_SECONDS, follow_redirects=False) as client,
            client.stream("GET", url, headers=headers) as response,
        ):
            if response.status_code != 200:
                raise KeysError(f"{url} answered {response.status_code}")
            if (coding := response.headers.get("content-encoding", "identity")) != "identity":
                raise KeysError(f"{url} is compressed ({coding}) although the request asked for identity")
            body = b""
            async for part in response.aiter_raw():
                body += part
                if len(body) > _MAX_DOCUMENT_BYTES:
                    raise KeysError(f"{url} is larger than {_MAX_DOCUMENT_BYTES} bytes")
        return pydantic_core.from_json(body)
    except TimeoutError as error:
        raise KeysError(f"{url} took longer than {_DOCUMENT_SECONDS:g} s") from error
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise KeysError(f"{url}: {error}") from error


class IssuerKeys(PublicKeys):
    """The public keys of an issuer, located through its metadata."""

    def __init__(self, issuer: str, fetch: Fetch | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(self._read_in_time, clock, _RETRY_SECONDS)
        self._issuer = issuer
        self._fetch = fetch or fetch_json

    async def require_key(self, key_id: str | None) -> jwt.PyJWK:
        """Return the key with an ID, or the only key if *key_id* is None.

        Raises:
            KeysError: The keys can't be fetched.
            TokenError: The issuer has no such key.
        """
        if (key := await self.find(key_id)) is None:
            raise TokenError("The token is signed by a key that the issuer does not publish")
        return key

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
                continue  # of an unsupported type
            if key.algorithm_name in ALGORITHMS and (key_id is None or isinstance(key_id, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
                keys[key_id] = key
        if not keys:
            raise KeysError("the issuer publishes no usable key")
        return keys

    async def _keys_url(self) -> str:
        failures: list[str] = []
        for url in metadata_urls(self._issuer):
            try:
                document = _mapping(await self._fetch(url))
            except KeysError as error:
                failures.append(str(error))
                continue
            # RFC 8414, 3.3: the document must name the same issuer.
            if document.get("issuer") != self._issuer:
                failures.append(f"{url} names the issuer {document.get('issuer')!r}")
                continue
            keys_url = document.get("jwks_uri")
            if isinstance(keys_url, str) and _is_as_secure(keys_url, self._issuer):
                return keys_url
            failures.append(f"{url} has no https jwks_uri")
        raise KeysError("; ".join(failures))


def metadata_urls(issuer: str) -> Sequence[str]:
    """Return the possible URLs of an issuer's metadata, in the order of the MCP specification."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")

    def build_url(path: str) -> str:
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))

    names = ("oauth-authorization-server", "openid-configuration")
    urls = [build_url(f"/.well-known/{name}{path}") for name in names]
    return [*urls, build_url(f"{path}/.well-known/openid-configuration")] if path else urls


def _is_as_secure(url: str, issuer: str) -> bool:
    try:
        return urlsplit(url).scheme in ("https", urlsplit(issuer).scheme)
    except ValueError:
        return False


def _mapping(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


@dataclass(frozen=True)
class ProtectedResource:
    """The protected resource: the MCP endpoint.

    Attributes:
        url: The endpoint's URL, which identifies it for clients and issuers.
        issuer: The authorization server.
        audience: The required value of `aud`.
        scopes: The scopes that every request requires.
        tool_scopes: The additional scopes of single tools.
    """

    url: str
    issuer: str
    audience: str
    scopes: frozenset[str]
    tool_scopes: Mapping[str, frozenset[str]]

    @classmethod
    def from_settings(cls, settings: Settings) -> "ProtectedResource":
        """Create the resource from settings, which must have an issuer and a base URL."""
        url = str(settings.resource_url)
        return cls(
            url=url,
            issuer=str(settings.oauth_issuer),
            audience=settings.oauth_audience or url,
            scopes=frozenset(settings.oauth_scopes),
            tool_scopes={tool: frozenset(scopes.split("+")) for tool, scopes in settings.oauth_tool_scopes.items()},
        )


class OAuthAuthorizer:
    """Accepts only requests with a valid token for this server."""

    covers_all_paths: Final = False

    def __init__(self, resource: ProtectedResource, keys: IssuerKeys) -> None:
        self._resource = resource
        self._keys = keys
        parts = urlsplit(resource.url)
        metadata_path = f"{_METADATA_PREFIX}{parts.path}"
        self._metadata_url = urlunsplit((parts.scheme, parts.netloc, metadata_path, "", ""))
        every_scope = resource.scopes.union(*resource.tool_scopes.values())
        document: dict[str, object] = {
            "resource": resource.url,
            "authorization_servers": [resource.issuer],
            "bearer_methods_supported": ["header"],
        }
        if every_scope:
            document["scopes_supported"] = sorted(every_scope)
        body = to_json(document)
        self._documents = {metadata_path: body, _METADATA_PREFIX: body}

    @classmethod
    def from_settings(cls, settings: Settings) -> "OAuthAuthorizer":
        """Create the authorizer from settings, which must have an issuer and a base URL."""
        resource = ProtectedResource.from_settings(settings)
        return cls(resource, IssuerKeys(resource.issuer))

    def metadata(self, path: str) -> bytes | None:
        """Return the protected-resource metadata, at its own path and at the shorter one that older clients use."""
        return self._documents.get(path)

    async def authorize(self, scope: Scope, headers: Headers, send: Send) -> bool:
        """Return whether the request may pass; otherwise, the response has been sent."""
        scheme, _, token = headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            # No error code: RFC 6750, 3.1, asks for none if the request has no token.
            await self._challenge(send, 401, "A token is required", None, self._resource.scopes)
            return False
        try:
            caller = await self._verify_token(token.strip())
        except TokenError as error:
            await self._challenge(send, 401, str(error), "invalid_token", self._resource.scopes)
            return False
        except KeysError:
            logger.exception("Tokens can't be checked: the keys of the issuer %s can't be read", self._resource.issuer)
            retry_after = (b"retry-after", b"%d" % _RETRY_SECONDS)
            await refuse(send, 503, INTERNAL_ERROR, "The authorization server can't be reached", headers=(retry_after,))
            return False
        if missing := self._resource.scopes - caller.scopes:
            await self._challenge(
                send, 403, f"Missing scope: {' '.join(sorted(missing))}", "insufficient_scope", self._resource.scopes
            )
            return False
        self._bind_caller(caller, token.strip(), scope)
        return True

    def missing_scopes(self, tool: object) -> frozenset[str]:
        """Return the scopes that the tool requires and the caller of this request does not have."""
        tool_scopes = self._resource.tool_scopes
        if not isinstance(tool, str):
            return frozenset()
        scopes = tool_scopes.get(tool, tool_scopes.get("*", frozenset()))
        caller = current_caller()
        return scopes - (frozenset() if caller is None else caller.scopes)

    async def refuse_tool(self, send: Send, missing: frozenset[str], request_id: str | int) -> None:
        """Send a 403 with the sufficient scopes, so that the client can request them (RFC 6750, 3.1)."""
        caller = current_caller()
        granted = frozenset[str]() if caller is None else caller.scopes
        await self._challenge(
            send,
            403,
            f"Missing scope: {' '.join(sorted(missing))}",
            "insufficient_scope",
            missing | self._resource.scopes | granted,
            request_id,
        )

    async def _verify_token(self, token: str) -> Caller:
        if len(token) > _MAX_TOKEN_BYTES:
            raise TokenError("The token is too long")
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise TokenError("The token is not a JWT") from error
        if header.get("alg") not in ALGORITHMS:
            raise TokenError("The token's signature algorithm is not supported")
        key_id = header.get("kid")
        key = await self._keys.require_key(key_id if isinstance(key_id, str) else None)
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
        caller = caller_of_claims(claims, _read_scopes(claims))
        if caller is None:
            raise TokenError("The token names no account")
        return caller

    def _bind_caller(self, caller: Caller, token: str, scope: Scope) -> None:
        """Set the caller for tools and for the SDK."""
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
        bind_sdk_user(caller, scope, user)

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
            description = _FORBIDDEN_IN_DESCRIPTION.sub("?", message.replace('"', "'").replace("\\", "/"))
            parts += [f'error="{error}"', f'error_description="{description}"']
        challenge = (b"www-authenticate", f"Bearer {', '.join(parts)}".encode())
        await refuse(send, status, INVALID_REQUEST, message, request_id, headers=(challenge,))


def _read_scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes in `scope` (RFC 9068) or `scp`, which is a text or a list."""
    value: object = claims.get("scope", claims.get("scp", ""))
    if isinstance(value, list):
        return frozenset(str(scope) for scope in cast("list[object]", value))
    return frozenset(str(value).split())
