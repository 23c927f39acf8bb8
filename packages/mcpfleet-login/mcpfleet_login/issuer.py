"""The OpenID Connect issuer where people log in, such as Google. Its tokens never leave this program and the store.

OpenID Connect Core 1.0: the code flow with PKCE, `nonce`, and the client's secret. ID tokens are verified with the keys
that the issuer publishes.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import urlencode, urlsplit

import httpx2
import jwt

from mcpfleet_login.members import GOOGLE, Account
from mcpfleet_server.hosting.oauth import ALGORITHMS
from mcpfleet_server.keys import KeysError, PublicKeys

_REQUEST_SECONDS: Final = 8.0
_METADATA_SECONDS: Final = 3600.0
_LEEWAY_SECONDS: Final = 30
_MAX_DOCUMENT_BYTES: Final = 256 * 1024
_MAX_GROUPS: Final = 1000


class IssuerError(Exception):
    """The issuer can't be reached or does not answer as expected; the request may be tried again."""


class LoginRefusedError(Exception):
    """The issuer refuses the login, or its answer does not prove it; the text is for the person."""


@dataclass(frozen=True, slots=True)
class Login:
    """What the issuer says about a person.

    Attributes:
        account: The account; None if a refresh's answer does not have it.
        refresh_token: Asks the issuer again later; None if it gave none.
    """

    account: Account | None
    refresh_token: str | None


@dataclass(frozen=True, slots=True)
class _Metadata:
    authorization_endpoint: str
    token_endpoint: str
    keys_url: str
    uses_basic: bool
    sends_issuer: bool
    offers_offline_access: bool


class Issuer:
    """Sends people to the issuer, and asks it who they are.

    Args:
        url: The issuer's URL, as its ID tokens have it.
        client_id: Our client there.
        client_secret: That client's secret.
        redirect_uri: Our callback, which is registered there.
        client: Sends the requests. It must not follow redirects.
        clock: Seconds since the epoch.
        monotonic: A monotonic clock in seconds.
    """

    def __init__(
        self,
        url: str,
        client_id: str,
        client_secret: str,
        redirect_uri: str,
        client: httpx2.AsyncClient,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._client_id = client_id
        self._client_secret = client_secret
        self._redirect_uri = redirect_uri
        self._client = client
        self._clock = clock
        self._monotonic = monotonic
        self._metadata: _Metadata | None = None
        self._metadata_until = 0.0
        self._keys = PublicKeys(self._read_keys, monotonic)

    @property
    def name(self) -> str:
        """The issuer's name for people."""
        return "Google" if self.url == GOOGLE else str(urlsplit(self.url).hostname)

    async def authorization_url(self, state: str, nonce: str, verifier: str) -> str:
        """Return the URL where the person logs in.

        Raises:
            IssuerError: The issuer's metadata can't be read.
        """
        metadata = await self._read_metadata()
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")
        scopes = ["openid", "email", "profile", *(["offline_access"] if metadata.offers_offline_access else [])]
        parameters = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(scopes),
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            # Otherwise Google gives a refresh token the first time only, and others ignore offline_access.
            "prompt": "consent",
        }
        if self.url == GOOGLE:
            parameters["access_type"] = "offline"
        separator = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        return f"{metadata.authorization_endpoint}{separator}{urlencode(parameters)}"

    async def check_response_issuer(self, issuer: str | None) -> None:
        """Check `iss` of an authorization response (RFC 9207), which prevents mix-up of two issuers.

        Raises:
            LoginRefusedError: It is another issuer's, or is missing although this issuer always sends it.
            IssuerError: The issuer's metadata can't be read.
        """
        if issuer != self.url and (issuer is not None or (await self._read_metadata()).sends_issuer):
            raise LoginRefusedError("The response does not come from the issuer that was asked")

    async def exchange(self, code: str, nonce: str, verifier: str) -> Login:
        """Return who has logged in.

        Raises:
            LoginRefusedError: The code or the ID token is not valid.
            IssuerError: The issuer can't be reached.
        """
        answer = await self._request_tokens(
            {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self._redirect_uri,
                "code_verifier": verifier,
            }
        )
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise LoginRefusedError(f"{self.name} sent no ID token")
        return Login(await self._verify(token, nonce), _text(answer.get("refresh_token")))

    async def refresh(self, refresh_token: str) -> Login:
        """Ask again about a person who has logged in before.

        Raises:
            LoginRefusedError: The login has ended there: the account was closed, or access was withdrawn.
            IssuerError: The issuer can't be reached.
        """
        answer = await self._request_tokens({"grant_type": "refresh_token", "refresh_token": refresh_token})
        token = answer.get("id_token")
        account = await self._verify(token, None) if isinstance(token, str) else None
        return Login(account, _text(answer.get("refresh_token")) or refresh_token)

    async def _verify(self, token: str, nonce: str | None) -> Account:
        """Verify an ID token (OpenID Connect Core 1.0, section 3.1.3.7) and return its account."""
        try:
            header = jwt.get_unverified_header(token)
            key_id = header.get("kid")
            key = await self._keys.find(key_id if isinstance(key_id, str) else None)
            if key is None or key.algorithm_name not in ALGORITHMS or header.get("alg") != key.algorithm_name:
                raise LoginRefusedError("The ID token is signed by a key that the issuer does not publish")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._client_id,
                issuer=self.url,
                # Checked below, with a clock that tests can set.
                options={
                    "require": ["exp", "iat", "iss", "aud", "sub"],
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except KeysError as error:
            raise IssuerError(f"The keys of {self.name} can't be fetched: {error}") from error
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise LoginRefusedError(f"The ID token is not valid: {error}") from error
        issued, expires, now = claims["iat"], claims["exp"], self._clock()
        if not isinstance(issued, int | float) or not isinstance(expires, int | float):
            raise LoginRefusedError("The ID token has no valid time")
        if not issued - _LEEWAY_SECONDS <= now < expires + _LEEWAY_SECONDS:
            raise LoginRefusedError("The ID token is not valid at this time")
        if nonce is not None and not hmac.compare_digest(str(claims.get("nonce", "")).encode(), nonce.encode()):
            raise LoginRefusedError("The ID token belongs to another login")
        if claims.get("azp", self._client_id) != self._client_id or not claims["sub"]:
            raise LoginRefusedError("The ID token was issued to another client")
        return _account(claims)

    async def _request_tokens(self, form: Mapping[str, str]) -> Mapping[str, Any]:
        metadata = await self._read_metadata()
        fields, auth = dict(form), None
        if metadata.uses_basic:
            auth = httpx2.BasicAuth(self._client_id, self._client_secret)
        else:
            fields |= {"client_id": self._client_id, "client_secret": self._client_secret}
        status, answer = await self._request("POST", metadata.token_endpoint, data=fields, auth=auth)
        if status == 200:
            return answer
        error = str(answer.get("error", ""))
        if status in (400, 401) and error == "invalid_grant":
            raise LoginRefusedError(f"{self.name} does not accept the login any more")
        raise IssuerError(f"The token endpoint of {self.name} answered {status} {error[:50]!r}")

    async def _read_metadata(self) -> _Metadata:
        if self._metadata is None or self._monotonic() >= self._metadata_until:
            url = f"{self.url.rstrip('/')}/.well-known/openid-configuration"
            try:
                status, document = await self._request("GET", url)
                if status != 200 or document.get("issuer") != self.url:
                    raise IssuerError(f"{url} answered {status} for the issuer {document.get('issuer')!r}")
                self._metadata = _parse_metadata(document, self.url)
                self._metadata_until = self._monotonic() + _METADATA_SECONDS
            except IssuerError:
                if self._metadata is None:
                    raise
        return self._metadata

    async def _read_keys(self) -> Mapping[str | None, Any]:
        try:
            status, document = await self._request("GET", (await self._read_metadata()).keys_url)
        except IssuerError as error:
            raise KeysError(str(error)) from error
        entries = document.get("keys") if status == 200 else None
        keys: dict[str | None, Any] = {}
        for entry in cast("list[object]", entries) if isinstance(entries, list) else []:
            try:
                key = jwt.PyJWK(cast("dict[str, Any]", entry))
            except (jwt.PyJWTError, TypeError, ValueError, AttributeError):
                continue  # of an unsupported type
            if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig"):
                keys[key.key_id] = key
        if not keys:
            raise KeysError(f"{self.name} publishes no usable key")
        return keys

    async def _request(self, method: str, url: str, **options: Any) -> tuple[int, Mapping[str, Any]]:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        try:
            async with (
                asyncio.timeout(_REQUEST_SECONDS),
                self._client.stream(method, url, headers=headers, follow_redirects=False, **options) as answer,
            ):
                body = b""
                async for part in answer.aiter_raw():
                    body += part
                    if len(body) > _MAX_DOCUMENT_BYTES:
                        raise IssuerError(f"{url} answered more than {_MAX_DOCUMENT_BYTES} bytes")
                document: object = json.loads(body) if body else {}
        except TimeoutError as error:
            raise IssuerError(f"{url} took longer than {_REQUEST_SECONDS:g} s") from error
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, RecursionError) as error:
            raise IssuerError(f"{url}: {type(error).__name__}") from error
        return answer.status_code, cast("Mapping[str, Any]", document) if isinstance(document, dict) else {}


def _parse_metadata(document: Mapping[str, Any], issuer: str) -> _Metadata:
    urls = [document.get(name) for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")]
    scheme = urlsplit(issuer).scheme
    if not all(isinstance(url, str) and urlsplit(url).scheme in ("https", scheme) for url in urls):
        raise IssuerError(f"The metadata of {issuer} lacks an https endpoint")
    authorization, token, keys = cast("list[str]", urls)
    # OpenID Connect Discovery 1.0: the default is client_secret_basic.
    methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
    return _Metadata(
        authorization,
        token,
        keys,
        uses_basic="client_secret_basic" in methods,
        sends_issuer=document.get("authorization_response_iss_parameter_supported") is True,
        offers_offline_access="offline_access" in (document.get("scopes_supported") or ()),
    )


def _account(claims: Mapping[str, Any]) -> Account:
    groups = claims.get("groups")
    names = cast("list[object]", groups)[:_MAX_GROUPS] if isinstance(groups, list) else []
    return Account(
        issuer=str(claims["iss"]),
        subject=str(claims["sub"]),
        email=_text(claims.get("email")) if claims.get("email_verified") is True else None,
        hosted_domain=_text(claims.get("hd")),
        groups=frozenset(name for name in names if isinstance(name, str)),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
