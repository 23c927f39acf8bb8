"""A login in memory: an OpenID Connect issuer, a store, an MCP server behind the gate, people with browsers."""

import base64
import functools
import hashlib
import itertools
import json
import re
import secrets
import time
from dataclasses import dataclass, field
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from mcp.client.auth import OAuthClientProvider
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken

from mcpfleet_login.documents import DocumentError
from mcpfleet_login.hosting import Clock, Outside, create_gate
from mcpfleet_login.settings import Settings
from mcpfleet_login.store import StoredObject, StoreError

BASE_URL = "https://weather-123.europe-west1.run.app"
RESOURCE = f"{BASE_URL}/mcp"
ISSUER = "https://login.acme.dev"
CLIENT_CALLBACK = "http://127.0.0.1:33418/callback"
KEY = base64.b64encode(bytes(range(32))).decode()
ISSUER_SECRET = "the-secret-of-our-client"  # pragma: allowlist secret


def settings(**more: str) -> Settings:
    variables = {
        "MCP_BASE_URL": BASE_URL,
        "MCP_HEALTH_PATH": "/health",
        "MCP_LOGIN_ISSUER": ISSUER,
        "MCP_LOGIN_CLIENT_ID": "our-client",
        "MCP_LOGIN_CLIENT_SECRET": ISSUER_SECRET,
        "MCP_LOGIN_MEMBERS": "user:ada@acme.dev",
        "MCP_LOGIN_KEYS": KEY,
        "MCP_LOGIN_BUCKET": "logins",
    }
    return Settings.model_validate(variables | more)


@functools.cache
def private_key(name: str) -> rsa.RSAPrivateKey:
    """Made once for all tests: making one takes longer than a test."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Time:
    now: float = field(default_factory=time.time)

    def clock(self) -> Clock:
        return Clock(lambda: self.now, lambda: self.now)


class MemoryStore:
    """Objects with generations; `is_down` makes every request fail."""

    def __init__(self) -> None:
        self.objects: dict[str, StoredObject] = {}
        self.is_down = False
        self.reads = self.writes = 0
        self._generations = itertools.count(1)

    def _check(self) -> None:
        if self.is_down:
            raise StoreError("the store is down")

    async def create(self, name: str, data: bytes) -> bool:
        return await self.replace(name, data, 0)

    async def read(self, name: str) -> StoredObject | None:
        self._check()
        self.reads += 1
        return self.objects.get(name)

    async def replace(self, name: str, data: bytes, generation: int) -> bool:
        self._check()
        self.writes += 1
        current = self.objects.get(name)
        if (0 if current is None else current.generation) != generation:
            return False
        self.objects[name] = StoredObject(data, next(self._generations))
        return True


class MemoryIssuer:
    """An OpenID Connect issuer, by its requests; attributes change what it answers."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self.person: dict[str, Any] = {"sub": "ada-1", "email": "ada@acme.dev", "email_verified": True}
        self.claims: dict[str, Any] = {}
        """Claims that replace the right ones in ID tokens."""
        self.key = "issuer"
        self.algorithm = "RS256"
        self.metadata: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.refresh_tokens: set[str] = set()
        self.gives_refresh_tokens = True
        self.is_down = False
        self.requests: list[httpx2.Request] = []

    def client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.MockTransport(self._stream))

    def log_in(self, url: str) -> str:
        """What the person's browser does at the issuer: returns the callback's URL."""
        assert url.startswith(f"{ISSUER}/authorize?")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        code = secrets.token_urlsafe(8)
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}"

    def _stream(self, request: httpx2.Request) -> httpx2.Response:
        answer = self._answer(request)
        return httpx2.Response(answer.status_code, headers=answer.headers, stream=httpx2.ByteStream(answer.content))

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.is_down:
            raise httpx2.ConnectError("the issuer is down")
        match request.url.path:
            case "/.well-known/openid-configuration":
                document = {
                    "issuer": ISSUER,
                    "authorization_endpoint": f"{ISSUER}/authorize",
                    "token_endpoint": f"{ISSUER}/token",
                    "jwks_uri": f"{ISSUER}/keys",
                    "token_endpoint_auth_methods_supported": ["client_secret_post"],
                    "scopes_supported": ["openid", "email", "offline_access"],
                }
                return httpx2.Response(200, json=document | self.metadata)
            case "/keys":
                key = jwt.get_algorithm_by_name("RS256").to_jwk(private_key("issuer").public_key(), as_dict=True)
                return httpx2.Response(200, json={"keys": [{**key, "kid": "1", "use": "sig", "alg": "RS256"}]})
            case "/token":
                return self._tokens({n: v[0] for n, v in parse_qs(request.content.decode()).items()})
        return httpx2.Response(404)

    def _tokens(self, form: dict[str, str]) -> httpx2.Response:
        assert (form["client_id"], form["client_secret"]) == ("our-client", ISSUER_SECRET)
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "aud": "our-client",
            "iat": int(self._time.now),
            "exp": int(self._time.now) + 300,
            **self.person,
        }
        if form["grant_type"] == "refresh_token":
            if form["refresh_token"] not in self.refresh_tokens:
                return httpx2.Response(400, json={"error": "invalid_grant"})
            self.refresh_tokens.discard(form["refresh_token"])
        else:
            asked = self.codes.pop(form["code"], None)
            verifier = hashlib.sha256(form["code_verifier"].encode()).digest()
            challenge = base64.urlsafe_b64encode(verifier).decode().rstrip("=")
            if asked is None or asked["code_challenge"] != challenge or asked["redirect_uri"] != form["redirect_uri"]:
                return httpx2.Response(400, json={"error": "invalid_grant"})
            claims["nonce"] = asked["nonce"]
        claims |= self.claims
        key: Any = private_key(self.key) if self.algorithm == "RS256" else "x" * 64
        token = jwt.encode(claims, key, self.algorithm, {"kid": "1"})
        answer = {"id_token": token, "access_token": "the-issuers-access-token", "token_type": "Bearer"}
        if self.gives_refresh_tokens:
            answer["refresh_token"] = f"the-issuers-{secrets.token_urlsafe(8)}"
            self.refresh_tokens.add(answer["refresh_token"])
        return httpx2.Response(200, json=answer)


class EchoApplication:
    """An application that answers with the request that it got."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, scope, receive, send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = [(name.decode(), value.decode("latin-1")) for name, value in scope["headers"]]
        request = {"method": scope["method"], "path": scope["path"], "headers": headers, "body": body.decode("latin-1")}
        self.requests.append(request | {"query": scope["query_string"].decode()})
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"application/json"), (b"set-cookie", b"mcpfleet-browser=chosen")],
            }
        )
        await send({"type": "http.response.body", "body": json.dumps(self.requests[-1]).encode()})


class World:
    """Everything that a login needs; `gate()` is one more instance of the service."""

    def __init__(self, application: Any = None, **environment: str) -> None:
        self.time = Time()
        self.store = MemoryStore()
        self.issuer = MemoryIssuer(self.time)
        self.echo = EchoApplication()
        self.application = application or self.echo
        self.documents: dict[str, bytes] = {}
        self.fetches: list[str] = []
        self.settings = settings(**environment)

    def gate(self, **environment: str) -> Any:
        outside = Outside(
            issuer=self.issuer.client(),
            store=self.store,
            application=httpx2.ASGITransport(self.application),
            fetch_document=self._fetch,
        )
        chosen = settings(**environment) if environment else self.settings
        return create_gate(chosen, outside, self.time.clock())

    def http(self, gate: Any = None, **options: Any) -> httpx2.AsyncClient:
        """A client of one instance, without cookies of others."""
        transport = httpx2.ASGITransport(gate or self.gate())
        return httpx2.AsyncClient(transport=transport, base_url=BASE_URL, **options)

    async def _fetch(self, url: str) -> bytes:
        self.fetches.append(url)
        if url not in self.documents:
            raise DocumentError("the document's host answered 404")
        return self.documents[url]


async def allow(browser: httpx2.AsyncClient, url: str, decision: str = "allow") -> httpx2.Response:
    """A person opens an authorization URL and decides; returns the answer to the form."""
    page = await browser.get(url, follow_redirects=True)
    assert page.status_code == 200, page.text
    match = re.search(r'name="request" value="([^"]+)"', page.text)
    assert match
    form = {"request": unescape(match[1]), "decision": decision}
    return await browser.post(str(page.url), data=form, headers={"origin": BASE_URL})


async def log_in(world: World, browser: httpx2.AsyncClient, url: str) -> httpx2.Response:
    """A person logs in completely; returns the answer of the callback."""
    sent = await allow(browser, url)
    assert sent.status_code == 303, sent.text
    return await browser.get(world.issuer.log_in(sent.headers["location"]))


def response_parameters(answer: httpx2.Response) -> dict[str, str]:
    """The parameters of the redirect to the client."""
    assert answer.status_code == 303, answer.text
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()}


@dataclass
class OauthClient:
    """A client that does OAuth by hand, so that a test can change each step."""

    world: World
    http: httpx2.AsyncClient
    client_id: str = ""
    redirect_uri: str = CLIENT_CALLBACK
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    state: str = field(default_factory=lambda: secrets.token_urlsafe(8))

    async def register(self, **metadata: Any) -> httpx2.Response:
        document = {
            "redirect_uris": [self.redirect_uri],
            "client_name": "Desk",
            "token_endpoint_auth_method": "none",
            **metadata,
        }
        answer = await self.http.post("/oauth/register", json=document)
        if answer.status_code == 201:
            self.client_id = answer.json()["client_id"]
        return answer

    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).decode().rstrip("=")

    def authorize_url(self, **changes: str | None) -> str:
        parameters: dict[str, str | None] = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.redirect_uri,
            "code_challenge": self.challenge(),
            "code_challenge_method": "S256",
            "state": self.state,
            "scope": "mcp",
            "resource": RESOURCE,
            **changes,
        }
        present = {name: value for name, value in parameters.items() if value is not None}
        return f"/oauth/authorize?{urlencode(present)}"

    async def get_code(self, browser: httpx2.AsyncClient | None = None, **changes: str | None) -> str:
        browser = browser or self.world.http()
        return response_parameters(await log_in(self.world, browser, self.authorize_url(**changes)))["code"]

    async def redeem(self, code: str, **changes: str | None) -> httpx2.Response:
        form: dict[str, str | None] = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "client_id": self.client_id,
            "code_verifier": self.verifier,
            "resource": RESOURCE,
            **changes,
        }
        return await self._post_token(form)

    async def refresh(self, token: str, **changes: str | None) -> httpx2.Response:
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.client_id, **changes}
        return await self._post_token(form)

    async def _post_token(self, form: dict[str, str | None]) -> httpx2.Response:
        present = {name: value for name, value in form.items() if value is not None}
        return await self.http.post("/oauth/token", data=present)

    async def call(self, token: str, **options: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
        return await self.http.post("/mcp", json={"jsonrpc": "2.0"}, headers=headers, **options)


async def logged_in(world: World, **metadata: Any) -> tuple[OauthClient, dict[str, Any]]:
    """A registered client that has logged in, and its tokens."""
    client = OauthClient(world, world.http())
    answer = await client.register(**metadata)
    assert answer.status_code == 201, answer.text
    tokens = await client.redeem(await client.get_code())
    assert tokens.status_code == 200, tokens.text
    return client, tokens.json()


class MemoryTokens:
    """Where the SDK's client keeps its tokens."""

    def __init__(self) -> None:
        self.tokens: OAuthToken | None = None
        self.information: OAuthClientInformationFull | None = None

    async def get_tokens(self) -> OAuthToken | None:
        return self.tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self.tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self.information

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self.information = client_info


def sdk_auth(world: World, storage: MemoryTokens, **options: Any) -> OAuthClientProvider:
    """The official SDK's OAuth client, whose person logs in with a browser of its own."""
    answers: list[dict[str, str]] = []

    async def open_browser(url: str) -> None:
        async with world.http() as browser:
            answers.append(response_parameters(await log_in(world, browser, url)))

    async def wait_for_callback() -> AuthorizationCodeResult:
        answer = answers.pop()
        return AuthorizationCodeResult(code=answer["code"], state=answer.get("state"), iss=answer.get("iss"))

    metadata = OAuthClientMetadata.model_validate(
        {"redirect_uris": [CLIENT_CALLBACK], "client_name": "The SDK", "token_endpoint_auth_method": "none"}
    )
    return OAuthClientProvider(RESOURCE, metadata, storage, open_browser, wait_for_callback, **options)


def sdk_client(http: httpx2.AsyncClient) -> Client:
    return Client(streamable_http_client(RESOURCE, http_client=http))
