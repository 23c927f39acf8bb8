"""The OAuth resource server: accepted tokens, and the responses to all others."""

import asyncio
import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer

from mcp_server.app import build_server
from mcpfleet_server.caller import current_caller
from mcpfleet_server.hosting import build_app, oauth
from mcpfleet_server.hosting.oauth import IssuerKeys, TokenError, metadata_urls
from mcpfleet_server.hosting.settings import Settings
from mcpfleet_server.keys import KeysError
from tests.unit.mcp_server.tokens import ADA, id_token
from tests.unit.mcp_server.wire import Request, call, get, message, post, scope_of, started

pytestmark = pytest.mark.anyio

ISSUER = "https://login.example.org/tenant"
BASE = "https://mcp.example.org"
RESOURCE = f"{BASE}/mcp"
ENVIRONMENT = {
    "MCP_OAUTH_ISSUER": ISSUER,
    "MCP_BASE_URL": BASE,
    "MCP_OAUTH_SCOPES": "mcp",
    "MCP_OAUTH_TOOL_SCOPES": "sell=shop:write+shop:read",
}
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def public(key, key_id, algorithm) -> dict:
    kind = jwt.algorithms.RSAAlgorithm if algorithm.startswith("RS") else jwt.algorithms.ECAlgorithm
    return {**json.loads(kind.to_jwk(key.public_key())), "kid": key_id, "use": "sig", "alg": algorithm}


class Issuer:
    """An authorization server's public documents."""

    def __init__(self) -> None:
        self.keys = [public(RSA_KEY, "one", "RS256"), public(EC_KEY, "two", "ES256")]
        self.name = ISSUER
        self.asked: list[str] = []
        self.down = False

    async def fetch(self, url: str) -> object:
        self.asked.append(url)
        if self.down:
            raise KeysError("no route")
        if url == "https://login.example.org/.well-known/openid-configuration/tenant":
            return {"issuer": self.name, "jwks_uri": "https://login.example.org/keys"}
        if url == "https://login.example.org/keys":
            return {"keys": self.keys}
        raise KeysError(f"{url} answered 404")


@pytest.fixture
def issuer(monkeypatch):
    fake = Issuer()
    monkeypatch.setattr(oauth, "fetch_json", fake.fetch)
    return fake


def token(key=RSA_KEY, key_id="one", algorithm="RS256", headers=None, **claims) -> str:
    now = int(time.time())
    members = {"iss": ISSUER, "aud": RESOURCE, "sub": "ada", "scope": "mcp", "iat": now, "exp": now + 60, **claims}
    members = {name: value for name, value in members.items() if value is not None}
    return jwt.encode(members, key, algorithm=algorithm, headers={"kid": key_id, **(headers or {})})


def bearer(text: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", f"Bearer {text}".encode())]


def shop(**environment):
    server = MCPServer("shop")

    @server.tool()
    async def who() -> str:
        caller, access = current_caller(), get_access_token()
        return f"{caller.subject} {caller.email} {access.client_id} {sorted(caller.scopes)}"

    @server.tool()
    async def sell() -> str:
        return "sold"

    return build_app(server, Settings(**ENVIRONMENT, **environment))


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"key": EC_KEY, "key_id": "two", "algorithm": "ES256"},
        {"aud": ["other", RESOURCE]},
        {"scope": "other mcp"},
        {"scope": None, "scp": ["mcp", "x"]},
    ],
)
async def test_a_token_for_this_server_is_accepted_and_identifies_the_caller_to_tools(issuer, modern, given):
    headers = bearer(token(client_id="desk", email="ada@example.org", **given))
    async with started(shop()) as app:
        status, answer = await call(app, "who", modern=modern, headers=headers).answer()
    assert status == 200
    assert answer["result"]["content"][0]["text"].startswith("ada None desk"), (
        "what an address is worth, only its issuer knows"
    )


async def test_a_request_without_a_token_gets_the_metadata_url(issuer):
    async with started(shop()) as app:
        request = call(app, "who")
        status, headers = await request.start()
        document = await get(app, "/.well-known/oauth-protected-resource/mcp").answer()
        plain = await get(app, "/.well-known/oauth-protected-resource").answer()
    assert status == 401
    assert headers["www-authenticate"] == (
        f'Bearer resource_metadata="{BASE}/.well-known/oauth-protected-resource/mcp", scope="mcp"'
    )
    assert document == plain
    assert document == (
        200,
        {
            "resource": RESOURCE,
            "authorization_servers": [ISSUER],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["mcp", "shop:read", "shop:write"],
        },
    )
    assert issuer.asked == []


@pytest.mark.parametrize(
    "text",
    [
        token(aud="https://other.example.org/mcp"),
        token(aud=None),
        token(aud=f"{RESOURCE}/"),
        token(iss="https://evil.test"),
        token(iss=f"{ISSUER}/"),
        token(iss=None),
        token(exp=int(time.time()) - 120),
        token(exp=None),
        token(nbf=int(time.time()) + 600),
        token(sub=None),
        token(key=OTHER_KEY),
        token(key=OTHER_KEY, key_id="unknown"),
        token(key_id="two"),
        token(key="x" * 32, algorithm="HS256"),
        token(key="x" * 32, algorithm="HS256", headers={"jwk": public(OTHER_KEY, "x", "RS256")}),
        jwt.encode({"iss": ISSUER, "aud": RESOURCE, "sub": "ada", "exp": 2**33}, None, algorithm="none"),
        token()[:-4] + "AAAA",
        token().replace(".", "..", 1),
        "opaque",
        "a.b.c",
        "x" * 20_000,
        id_token(ADA | {"iss": ISSUER, "aud": RESOURCE, "exp": 2**33}),
    ],
    ids=lambda text: None,
)
async def test_any_other_token_is_refused_and_not_echoed(issuer, text):
    async with started(shop()) as app:
        request = call(app, "who", headers=bearer(text))
        status, headers = await request.start()
        body, _ = await request.part()
    assert status == 401
    assert 'error="invalid_token"' in headers["www-authenticate"]
    assert text[:40] not in headers["www-authenticate"] + body.decode() or len(text) < 10


async def test_no_reason_for_a_refusal_ends_the_line_of_the_challenge(issuer, monkeypatch):
    def decode(*arguments, **options):
        raise jwt.PyJWTError('no\r\nset-cookie: a=b\x00\x7f\u2028" \\ \u00e9')

    text = token()
    monkeypatch.setattr(oauth.jwt, "decode", decode)
    async with started(shop()) as app:
        request = call(app, "who", headers=bearer(text))
        status, headers = await request.start()
        await request.part()
    assert status == 401
    description = headers["www-authenticate"].partition('error_description="')[2]
    assert description == "The token is not valid: no??set-cookie: a=b???' / ?\""


@pytest.mark.parametrize("value", ["", "Basic abc", "Bearer", "Bearer ", "bearer\t x"])
async def test_other_authorization_schemes_count_as_no_token(issuer, value):
    async with started(shop()) as app:
        status, headers = await call(app, "who", headers=[(b"authorization", value.encode())]).start()
    assert status == 401
    assert headers["www-authenticate"].startswith("Bearer resource_metadata=")


async def test_a_token_without_the_required_scope_is_refused_with_its_name(issuer):
    async with started(shop()) as app:
        status, headers = await call(app, "who", headers=bearer(token(scope="other"))).start()
    assert status == 403
    assert 'error="insufficient_scope"' in headers["www-authenticate"]
    assert 'scope="mcp"' in headers["www-authenticate"]


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
async def test_a_tools_scopes_are_required_only_for_that_tool(issuer, modern):
    async with started(shop()) as app:
        request = call(app, "sell", modern=modern, headers=bearer(token(scope="mcp shop:read")))
        status, headers = await request.start()
        allowed, _ = await call(app, "who", modern=modern, headers=bearer(token(scope="mcp"))).answer()
        both = bearer(token(scope="mcp shop:read shop:write"))
        _, sold = await call(app, "sell", modern=modern, headers=both).answer()
    assert status == 403
    assert 'scope="mcp shop:read shop:write"' in headers["www-authenticate"]
    assert "Missing scope: shop:write" in headers["www-authenticate"]
    assert allowed == 200
    assert sold["result"]["content"][0]["text"] == "sold"


async def test_a_tools_scopes_are_required_in_a_session(issuer):
    async with started(shop(MCP_STATELESS="false")) as app:
        initialize = message(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
            modern=False,
        )
        opened = post(app, initialize, modern=False, headers=bearer(token()))
        _, headers = await opened.start()
        session = [(b"mcp-session-id", headers["mcp-session-id"].encode())]
        await opened.task
        done = {"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}}
        await post(app, done, modern=False, headers=[*session, *bearer(token())]).task
        request = call(app, "sell", modern=False, headers=[*session, *bearer(token())])
        await request.start()
        answer = await request.event()
        eve_call = call(app, "who", modern=False, headers=[*session, *bearer(token(sub="eve"))])
        status, _ = await eve_call.start()
    assert answer["error"]["message"] == "Missing scope: shop:read shop:write"
    assert status == 404


async def test_each_call_of_a_session_is_checked_by_its_own_tokens_scopes(issuer):
    async with started(shop(MCP_STATELESS="false")) as app:
        greeting = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        all_scopes = bearer(token(scope="mcp shop:read shop:write"))
        opened = post(app, message("initialize", greeting, modern=False), modern=False, headers=all_scopes)
        _, headers = await opened.start()
        await opened.task
        session = [(b"mcp-session-id", headers["mcp-session-id"].encode())]

        async def sold(given):
            request = call(app, "sell", modern=False, headers=[*session, *given])
            await request.start()
            return await request.event()

        assert (await sold(all_scopes))["result"]["content"][0]["text"] == "sold"
        assert "Missing scope" in (await sold(bearer(token(scope="mcp"))))["error"]["message"]
        assert (await sold(all_scopes))["result"]["content"][0]["text"] == "sold"


async def test_only_its_caller_can_use_a_session_or_a_stream(issuer):
    ada, eve = bearer(token()), bearer(token(sub="eve"))
    async with started(shop(MCP_STATELESS="false", MCP_TRANSPORTS="streamable-http,sse")) as app:
        greeting = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        opened = post(app, message("initialize", greeting, modern=False), modern=False, headers=ada)
        _, headers = await opened.start()
        await opened.task
        session = [(b"mcp-session-id", headers["mcp-session-id"].encode())]
        scope = scope_of(message("ping"), modern=False, headers=[*session, *eve])
        for method in ("GET", "DELETE"):
            assert (await Request(app, {**scope, "method": method}).start())[0] == 404
        stream = get(app, "/sse", headers=ada)
        await stream.start()
        path, _, query = (await stream.part())[0].decode().partition("data: ")[2].strip().partition("?")
        content = message("ping", modern=False)
        for headers, status in ((eve, 404), (ada, 202)):
            scope = scope_of(content, modern=False, path=path, headers=headers) | {"query_string": query.encode()}
            assert (await Request(app, scope, json.dumps(content).encode()).start())[0] == status
        stream.hang_up()
        await stream.task


async def test_health_and_host_checks_are_unchanged_with_oauth(issuer):
    async with started(shop()) as app:
        assert (await get(app, "/health").answer())[0] == 200
        assert (await call(app, "who", headers=[(b"host", b"mcp.example.org"), *bearer(token())]).answer())[0] == 200
        assert (await call(app, "who", headers=[(b"host", b"evil.test"), *bearer(token())]).answer())[0] == 421


async def test_with_oauth_cloud_runs_identity_header_is_ignored(issuer):
    headers = [*bearer(token()), (b"x-serverless-authorization", f"Bearer {id_token(ADA)}".encode())]
    async with started(shop()) as app:
        _, answer = await call(app, "who", headers=headers).answer()
    assert answer["result"]["content"][0]["text"].startswith("ada None")


async def test_an_unreachable_issuer_does_not_ask_callers_to_log_in_again(issuer):
    issuer.down = True
    async with started(shop()) as app:
        status, headers = await call(app, "who", headers=bearer(token())).start()
    assert status == 503
    assert headers["retry-after"] == "5"
    assert "www-authenticate" not in headers


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_cached_for_an_hour_and_refetched_for_unknown_key_ids():
    issuer, clock = Issuer(), Clock()
    keys = IssuerKeys(ISSUER, issuer.fetch, clock)
    await keys.require_key("one")
    fetch_count = len(issuer.asked)
    await keys.require_key("two")
    assert len(issuer.asked) == fetch_count
    with pytest.raises(TokenError):
        await keys.require_key("made-up")
    assert len(issuer.asked) == fetch_count  # asked just now: a made-up name does not make us ask
    issuer.keys.append(public(OTHER_KEY, "three", "RS256"))
    clock.now = 11
    await keys.require_key("three")
    assert len(issuer.asked) == 2 * fetch_count
    clock.now = 11 + 3601
    issuer.down = True
    await keys.require_key("one")  # old, and better than nothing
    with pytest.raises((TokenError, KeysError)):
        await keys.require_key("four")


async def test_metadata_with_another_issuer_is_refused():
    issuer = Issuer()
    issuer.name = "https://evil.test"
    with pytest.raises(KeysError, match=r"names the issuer 'https://evil\.test'"):
        await IssuerKeys(ISSUER, issuer.fetch).require_key("one")


@pytest.mark.parametrize("document", [None, [], {"keys": 3}, {"keys": []}, {"keys": [{}, 3, {"kty": "none"}]}])
async def test_invalid_keys_are_ignored(document):
    issuer = Issuer()

    async def fetch(url):
        return document if url.endswith("/keys") else await issuer.fetch(url)

    with pytest.raises(KeysError):
        await IssuerKeys(ISSUER, fetch).require_key("one")


async def test_metadata_is_requested_at_the_specified_urls():
    assert metadata_urls("https://a.test") == [
        "https://a.test/.well-known/oauth-authorization-server",
        "https://a.test/.well-known/openid-configuration",
    ]
    assert metadata_urls("https://a.test/t/") == [
        "https://a.test/.well-known/oauth-authorization-server/t",
        "https://a.test/.well-known/openid-configuration/t",
        "https://a.test/t/.well-known/openid-configuration",
    ]


async def test_the_reference_servers_whoami_shows_the_caller(issuer):
    settings = Settings(**ENVIRONMENT)
    async with started(build_app(build_server(settings), settings)) as app:
        _, answer = await call(app, "whoami", headers=bearer(token(email="eve@google.com"))).answer()
    assert answer["result"]["structuredContent"]["caller"] == "ada"


@pytest.mark.parametrize("path", ["/mcp", "/mcp/", "/sse", "/messages/", "/messages/x", "/messages//"])
async def test_every_mcp_route_requires_a_token(issuer, path):
    content = message(params={"name": "who", "arguments": {}})
    async with started(shop(MCP_TRANSPORTS="streamable-http,sse")) as app:
        scope = scope_of(content, path=path) | {"method": "GET" if path == "/sse" else "POST"}
        status, headers = await Request(app, scope, json.dumps(content).encode()).start()
    assert status == 401
    assert "resource_metadata" in headers["www-authenticate"]


# Pieces that routers, proxies and file systems read in different ways.
PIECES = (
    *("/mcp", "/sse", "/messages", "/messages/", "/", "//", "/.", "/..", "/./", "/../", ";", ";x=1", "?", "#", "\\"),
    *("%2f", "%2e%2e", "%00", "\0", "\n", "/MCP", "/Sse", "mcp", "sse", "é", "/health", "/ready", "/.well-known"),
    *("/oauth-protected-resource", "/authorize", "/token", "/register"),
)
# What anybody may ask for: whether the server lives, and where tokens are to be had.
OPEN = {
    *("/health", "/ready"),
    *(f"/.well-known/oauth-protected-resource{path}" for path in ("", "/mcp")),
}


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "HEAD"]),
            st.lists(st.sampled_from(PIECES), min_size=1, max_size=4).map("".join),
        ),
        min_size=20,
        max_size=20,
    )
)
@example([("POST", "/mcp\n"), ("GET", "/mcp\n"), ("DELETE", "/mcp\n"), ("POST", "/mcp/\n"), ("GET", "/sse\n")])
@example([("POST", "/messages\n"), ("POST", "/messages/\n"), ("POST", "/mcp\r"), ("POST", "/mcp\u2028")])
def test_no_spelling_of_a_path_bypasses_the_token_check(asked):
    called = []
    server = MCPServer("shop")

    @server.tool()
    async def who() -> str:
        called.append("who")
        return ""

    async def ask(app, method, path):
        content = message(params={"name": "who", "arguments": {}})
        scope = scope_of(content, path=path) | {"method": method}
        return (await Request(app, scope, json.dumps(content).encode()).start())[0]

    async def run():
        app = build_app(server, Settings(**ENVIRONMENT, MCP_TRANSPORTS="streamable-http,sse"))
        async with started(app):
            return [(method, path, await ask(app, method, path)) for method, path in asked]

    # Asked for a token, or not there: whatever else is said, somebody behind the gate has looked at it.
    bypasses = [
        response for response in asyncio.run(run()) if response[2] not in {401, 404, 405} and response[1] not in OPEN
    ]
    assert (bypasses, called) == ([], [])
