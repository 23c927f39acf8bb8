"""`access: oauth` with an authorization server over real HTTP: metadata, keys, tokens and faults."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import time
import tracemalloc
from contextlib import asynccontextmanager
from functools import partial

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse

from mcp_server.app import build_server
from mcpfleet_server.hosting import build_app, oauth
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.authorization_server import (
    KEYS,
    METADATA,
    OPENID,
    AuthorizationServer,
    free_socket,
    served,
    url_of,
)
from tests.unit.mcp_server.wire import message

pytestmark = pytest.mark.anyio

STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
MIB = 1024 * 1024


class Clock:
    """A fixed clock for the gate."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class McpServer:
    """The reference server, as its callers see it."""

    def __init__(self, http: httpx2.AsyncClient, url: str) -> None:
        self.http = http
        self.resource = f"{url}/mcp"

    async def ask(self, token: str | None = None, content=None) -> httpx2.Response:
        content = content or message("tools/list")
        headers = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": content["method"],
        }
        if "name" in content["params"]:
            headers["mcp-name"] = content["params"]["name"]
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return await self.http.post(self.resource, json=content, headers=headers)

    async def call(self, token: str, tool: str, **arguments) -> httpx2.Response:
        return await self.ask(token, message(params={"name": tool, "arguments": arguments}))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(oauth, "IssuerKeys", partial(oauth.IssuerKeys, clock=clock))
    return clock


@asynccontextmanager
async def protected(issuer: AuthorizationServer):
    bound = free_socket()
    url = url_of(bound)
    settings = Settings(
        MCP_OAUTH_ISSUER=issuer.url,
        MCP_BASE_URL=url,
        MCP_OAUTH_SCOPES="mcp",
        MCP_OAUTH_TOOL_SCOPES="echo=speak",
    )
    async with served(build_app(build_server(settings), settings), bound), httpx2.AsyncClient(timeout=20) as http:
        yield McpServer(http, url)


@pytest.fixture
async def down():
    """An authorization server that does not run yet."""
    issuer = AuthorizationServer()
    try:
        yield issuer
    finally:
        issuer.socket.close()


@pytest.fixture
async def issuer(down):
    async with served(down, down.socket):
        try:
            yield down
        finally:
            down.recovered.set()


@pytest.fixture
async def server(clock, issuer):
    async with protected(issuer) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch):
    """Wait for the issuer a fraction of a second instead of seconds."""
    monkeypatch.setattr(oauth, "_DOCUMENT_SECONDS", 0.1)
    monkeypatch.setattr(oauth, "_LOAD_SECONDS", 0.25)


def good(issuer, server, **claims) -> str:
    return issuer.sign(**{"aud": server.resource, "scope": "mcp", **claims})


def unsigned(token: str, algorithm: str) -> str:
    """Its signing input with another algorithm in the header."""
    header = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "one"}).encode()).decode().rstrip("=")
    return f"{header}.{token.split('.')[1]}"


def by_public_key(issuer, token: str) -> str:
    """HS256 with the published key as the secret, which PyJWT itself will not write."""
    public = issuer.keys["one"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signed = unsigned(token, "HS256")
    mac = hmac.new(public, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"


async def test_a_client_finds_the_issuer_gets_a_token_and_lists_the_tools(server, issuer):
    nobody = await server.ask()
    assert nobody.status_code == 401
    assert issuer.asked == []
    _, _, metadata_url = nobody.headers["www-authenticate"].partition('resource_metadata="')
    document = (await server.http.get(metadata_url.partition('"')[0])).json()
    assert document["authorization_servers"] == [issuer.url]

    answer = await server.ask(await issuer.token(document["resource"], "mcp"))
    assert answer.status_code == 200
    assert "whoami" in {tool["name"] for tool in answer.json()["result"]["tools"]}
    assert issuer.asked == [METADATA, KEYS]


async def test_an_issuer_with_only_openid_connect_metadata_is_found(server, issuer):
    async def metadata(request):
        return JSONResponse({"issuer": issuer.url, "jwks_uri": f"{issuer.url}{KEYS}"})

    async def missing(request):
        return Response(status_code=404)

    issuer.ill = {METADATA: missing, OPENID: metadata}
    assert (await server.ask(good(issuer, server))).status_code == 200
    assert issuer.asked == [METADATA, OPENID, KEYS]


async def test_tokens_of_another_issuer_or_audience_are_refused(server, issuer):
    token = good(issuer, server)
    tokens = {
        "audience": good(issuer, server, aud="https://other.example.org/mcp"),
        "issuer": good(issuer, server, iss="https://evil.test"),
        "expired": good(issuer, server, exp=int(time.time()) - 3600),
        "no algorithm": unsigned(token, "none") + ".",
        "public key as secret": by_public_key(issuer, token),
        "unknown kid": good(issuer, server, key_id="unknown"),
        "another key": good(issuer, server, key=STRANGER),
        "endless": good(issuer, server, exp=float("inf")),
        "broken signature": token[:-8] + "AAAAAAAA",
    }
    answers = {name: await server.ask(item) for name, item in tokens.items()}
    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(tokens, 401)
    assert all('error="invalid_token"' in answer.headers["www-authenticate"] for answer in answers.values())
    assert (await server.ask(token)).status_code == 200


async def test_a_missing_scope_for_a_tool_is_refused_with_its_name(server, issuer):
    token = await issuer.token(server.resource, "mcp")
    answer = await server.call(token, "echo", text="x")
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert 'scope="mcp speak"' in answer.headers["www-authenticate"]
    assert (await server.call(token, "add", a=1, b=2)).status_code == 200
    wider = await issuer.token(server.resource, "mcp speak")
    assert (await server.call(wider, "echo", text="x")).status_code == 200


async def test_a_new_key_is_fetched_once_and_unknown_key_ids_cause_no_requests(server, issuer, clock):
    old = good(issuer, server)
    assert (await server.ask(old)).status_code == 200
    issuer.rotate("two")
    clock.now += 11
    issuer.asked.clear()
    answers = await asyncio.gather(*(server.ask(good(issuer, server)) for _ in range(5)))
    assert [answer.status_code for answer in answers] == [200] * 5
    assert issuer.asked == [METADATA, KEYS]
    clock.now += 1
    made_up = await asyncio.gather(*(server.ask(good(issuer, server, key_id=f"x{n}")) for n in range(20)))
    assert {answer.status_code for answer in made_up} == {401}
    assert (await server.ask(old)).status_code == 401
    assert issuer.asked == [METADATA, KEYS]


async def test_an_issuer_that_is_down_at_startup_is_found_later(down, clock):
    async with protected(down) as server:
        token = good(down, server)
        early = await server.ask(token)
        assert early.status_code == 503
        assert "www-authenticate" not in early.headers
        async with served(down, down.socket):
            assert (await server.ask(token)).status_code == 503
            assert down.asked == []
            clock.now += int(early.headers["retry-after"]) + 1
            assert (await server.ask(token)).status_code == 200


async def test_unauthenticated_requests_cannot_flood_a_failing_issuer(server, issuer, clock):
    async def broken(request):
        return Response(status_code=500)

    issuer.ill = {METADATA: broken, OPENID: broken}
    answers = await asyncio.gather(*(server.ask(good(issuer, server, key_id=f"x{n}")) for n in range(20)))
    assert {answer.status_code for answer in answers} == {503}
    clock.now += 1
    assert (await server.ask(good(issuer, server))).status_code == 503
    assert issuer.asked == [METADATA, OPENID]


async def test_a_failed_refresh_of_keys_is_retried_soon(server, issuer, clock):
    async def broken(request):
        return Response(status_code=500)

    old = good(issuer, server)
    assert (await server.ask(old)).status_code == 200
    issuer.rotate("two")
    clock.now += 3599
    issuer.asked.clear()
    assert (await server.ask(old)).status_code == 200
    assert issuer.asked == []
    clock.now += 2
    issuer.ill = {KEYS: broken}
    assert (await server.ask(old)).status_code == 200  # old keys are better than none
    issuer.ill = {}
    clock.now += 11
    assert (await server.ask(old)).status_code == 401


@pytest.mark.parametrize("path", [METADATA, KEYS])
async def test_a_hanging_issuer_delays_one_request_for_a_bounded_time(impatient, server, issuer, path):
    issuer.ill = {path: issuer.hang, OPENID: issuer.hang}
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(server.ask(good(issuer, server)) for _ in range(30)))
    assert {answer.status_code for answer in answers} == {503}
    assert issuer.asked.count(path) <= 1  # on a busy machine what comes before it may be too slow already


async def test_a_metadata_document_that_arrives_too_slowly_is_skipped(monkeypatch, server, issuer):
    async def drops():
        while not issuer.recovered.is_set():
            yield b" "
            await asyncio.wait([asyncio.ensure_future(issuer.recovered.wait())], timeout=0.02)

    async def drip(request):
        return StreamingResponse(drops(), media_type="application/json")

    async def metadata(request):
        return JSONResponse({"issuer": issuer.url, "jwks_uri": f"{issuer.url}{KEYS}"})

    monkeypatch.setattr(oauth, "_DOCUMENT_SECONDS", 1.0)
    issuer.ill = {METADATA: drip, OPENID: metadata}
    assert (await server.ask(good(issuer, server))).status_code == 200


async def test_a_caller_with_a_known_key_does_not_wait_for_an_unknown_key(server, issuer, clock):
    token = good(issuer, server)
    assert (await server.ask(token)).status_code == 200
    clock.now += 11
    reached = asyncio.Event()

    async def hang(request):
        reached.set()
        return await issuer.hang(request)

    issuer.ill = {METADATA: hang}
    unknown_key_call = asyncio.create_task(server.ask(good(issuer, server, key_id="made-up")))
    await reached.wait()
    async with asyncio.timeout(3):
        assert (await server.ask(token)).status_code == 200
        clock.now += 3601
        assert (await server.ask(token)).status_code == 200
    assert not unknown_key_call.done()
    issuer.recovered.set()
    assert (await unknown_key_call).status_code == 503


@pytest.mark.parametrize("path", [METADATA, KEYS])
async def test_a_redirect_by_the_issuer_is_not_followed(server, issuer, path):
    async def elsewhere(request):
        return RedirectResponse(f"{issuer.url}/elsewhere", 302)

    async def stolen(request):
        return JSONResponse({"issuer": issuer.url, "jwks_uri": f"{issuer.url}{KEYS}", "keys": issuer.public()})

    issuer.ill = {path: elsewhere, "/elsewhere": stolen}
    assert (await server.ask(good(issuer, server))).status_code == 503
    assert "/elsewhere" not in issuer.asked


@pytest.mark.parametrize("path", [METADATA, KEYS])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
async def test_an_endless_metadata_document_is_not_read_completely(server, issuer, path, packed):
    part = gzip.compress(b" " * 64 * MIB) if packed else b" " * 64 * 1024

    async def parts():
        while not issuer.recovered.is_set():
            yield part
            await asyncio.sleep(0)  # a turn for the connection to be closed

    async def huge(request):
        headers = {"content-encoding": "gzip"} if packed else {}
        return StreamingResponse(parts(), headers=headers, media_type="application/json")

    issuer.ill = {path: huge}
    token = good(issuer, server)
    tracemalloc.start()
    try:
        answer = await server.ask(token)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 503
    assert peak < 16 * MIB


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b'{"issuer": "%s", "jwks_uri": "http://[bad"}',
        b'{"issuer": "%s", "jwks_uri": "http://127.0.0.1:x/"}',
        b'{"issuer": "%s", "jwks_uri": "http://\\u0000/"}',
        b'{"issuer": "%s", "jwks_uri": "http:///"}',
        b'{"issuer": "%s", "jwks_uri": "file:///etc/passwd"}',
        b'{"issuer": "%s", "jwks_uri": 3}',
    ],
)
async def test_invalid_metadata_counts_as_no_response_from_the_issuer(server, issuer, document):
    async def odd(request):
        return Response(document.replace(b"%s", issuer.url.encode()), media_type="application/json")

    issuer.ill = {METADATA: odd}
    assert (await server.ask(good(issuer, server))).status_code == 503


@pytest.mark.parametrize("odd", [{"kid": ["a"]}, {"alg": ["RS256"]}, {"kid": {}}, {"n": 3}, {"use": ["sig"]}])
async def test_an_invalid_key_does_not_affect_the_others(server, issuer, odd):
    async def keys(request):
        return JSONResponse({"keys": [issuer.public()[0] | odd, *issuer.public()]})

    issuer.ill = {KEYS: keys}
    assert (await server.ask(good(issuer, server))).status_code == 200


async def test_a_published_symmetric_key_is_not_accepted(server, issuer):
    secret = b"s" * 32

    async def keys(request):
        shared = {"kty": "oct", "k": base64.urlsafe_b64encode(secret).decode(), "kid": "shared"}
        return JSONResponse({"keys": [shared, *issuer.public()]})

    issuer.ill = {KEYS: keys}
    claims = {"iss": issuer.url, "aud": server.resource, "sub": "eve", "scope": "mcp", "exp": 2**33}
    forged = jwt.encode(claims, secret, algorithm="HS256", headers={"kid": "shared"})
    assert (await server.ask(forged)).status_code == 401
    as_rsa = good(issuer, server, key_id="shared")
    assert (await server.ask(as_rsa)).status_code == 401
