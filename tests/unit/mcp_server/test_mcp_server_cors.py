"""CORS of a hosted server: only pages of allowed origins can call it and read its responses."""

import asyncio
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer

from mcpfleet_server.hosting.edge import Edge
from mcpfleet_server.hosting.settings import Settings

APP = "https://app.example.com"
LISTED = f"{APP},http://localhost:*,https://*.pages.example.org:8443"
ACCEPT = {"accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
ASKS = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
OAUTH = {"MCP_OAUTH_ISSUER": "https://login.example.org", "MCP_BASE_URL": "https://mcp.example.org"}


def words(line: str) -> set[str]:
    return {word.strip().lower() for word in line.split(",")}


@pytest.fixture
def server():
    return MCPServer("shop")


@pytest.mark.anyio
@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_a_preflight_from_a_listed_origin_is_allowed(serving, server, path):
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED) as http:
        answer = await http.options(path, headers={"origin": APP, **ASKS})
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["access-control-allow-origin"] == APP
    assert "origin" in words(answer.headers["vary"])
    assert words(answer.headers["access-control-allow-methods"]) == {"get", "post", "delete"}
    assert words(answer.headers["access-control-allow-headers"]) >= {
        "authorization",
        "content-type",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "x-serverless-authorization",
    }
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.anyio
async def test_a_page_may_send_the_headers_that_repeat_arguments(serving, server):
    asks = {**ASKS, "access-control-request-headers": "content-type, Mcp-Param-City,x-evil"}
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED) as http:
        answer = await http.options("/mcp", headers={"origin": APP, **asks})
    allowed = words(answer.headers["access-control-allow-headers"])
    assert "mcp-param-city" in allowed
    assert "x-evil" not in allowed


@pytest.mark.anyio
async def test_a_page_may_read_a_response_and_its_session_id(serving, server):
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "page", "version": "1"}}
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED, MCP_STATELESS="false") as http:
        answer = await http.post(
            "/mcp",
            json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
            headers=ACCEPT | {"origin": APP},
        )
    assert answer.headers.get_list("access-control-allow-origin") == [APP]
    assert "origin" in words(answer.headers["vary"])
    assert "mcp-session-id" in words(answer.headers["access-control-expose-headers"])
    assert answer.headers["mcp-session-id"]


@pytest.mark.anyio
async def test_a_page_may_read_the_reason_of_a_refusal(serving, server):
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED, **OAUTH) as http:
        preflight = await http.options("/mcp", headers={"origin": APP, "host": "mcp.example.org", **ASKS})
        nobody = await http.post("/mcp", json=LIST, headers=ACCEPT | {"origin": APP, "host": "mcp.example.org"})
    assert preflight.status_code == 200, "a preflight carries no token"
    assert nobody.status_code == 401
    assert nobody.headers["access-control-allow-origin"] == APP
    assert "www-authenticate" in words(nobody.headers["access-control-expose-headers"])


@pytest.mark.anyio
async def test_the_metadata_document_has_exactly_one_cors_header(serving, server):
    path, named = "/.well-known/oauth-protected-resource", {"origin": APP, "host": "mcp.example.org"}
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED, **OAUTH) as http:
        document = await http.get(path, headers=named)
        preflight = await http.options(path, headers={**named, "access-control-request-method": "GET"})
    assert document.headers.get_list("access-control-allow-origin") == ["*"]
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, APP)


@pytest.mark.anyio
async def test_a_request_without_an_origin_gets_no_cors_headers(serving, server):
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED) as http:
        answer = await http.post("/mcp", json=LIST, headers=ACCEPT)
        options = await http.options("/mcp", headers=ASKS)
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert options.status_code == 405


@pytest.mark.anyio
async def test_an_applications_own_routes_set_their_own_cors_headers(serving, server):
    async with serving(server, MCP_ALLOWED_ORIGINS=LISTED) as http:
        answer = await http.options("/own", headers={"origin": APP, **ASKS})
    assert answer.status_code == 404
    assert "access-control-allow-origin" not in answer.headers


async def _application(scope, receive, send):
    await send({"type": "http.response.start", "status": 204, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b""})


def answered(method: str, *headers: tuple[bytes, bytes], listed: str = LISTED) -> tuple[int, dict[bytes, list[bytes]]]:
    edge = Edge(
        _application,
        _application,
        hosts=(),
        origins=Settings(MCP_ALLOWED_ORIGINS=listed).allowed_origins,
        path="/mcp",
        health_path="/health",
        stateless=False,
    )
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    raw = [(b"host", b"localhost"), *headers]
    asyncio.run(edge({"type": "http", "method": method, "path": "/mcp", "headers": raw}, receive, send))
    received: dict[bytes, list[bytes]] = {}
    for name, value in sent[0]["headers"]:
        received.setdefault(name, []).append(value)
    return sent[0]["status"], received


ORIGINS = (
    st.sampled_from([b"null", b"*", b"", b"https://app.example.com.evil.dev", b"https://evil.dev", APP.encode()])
    | st.from_regex(
        r"https?://(app\.example\.com|localhost|x\.pages\.example\.org)(:[0-9]{1,5})?[ /\r\n]?", fullmatch=True
    ).map(str.encode)
    | st.binary(max_size=40)
)


@settings(deadline=None)
@given(ORIGINS, st.sampled_from(["OPTIONS", "POST", "GET", "DELETE"]), st.sampled_from([LISTED, APP, ""]))
def test_a_response_names_the_origin_only_if_it_is_listed(origin, method, listed):
    sent = origin.decode("latin-1").strip(" \t")
    is_listed = any(pattern.accepts(sent) for pattern in Settings(MCP_ALLOWED_ORIGINS=listed).allowed_origins)
    status, headers = answered(method, (b"origin", origin), (b"access-control-request-method", b"POST"), listed=listed)
    if is_listed:
        assert status in (200, 204)
        assert headers[b"access-control-allow-origin"] == [sent.encode("latin-1")]
        assert b"Origin" in headers[b"vary"][0]
    else:
        assert status == 403
        assert not [name for name in headers if name.startswith(b"access-control-")]
    assert b"access-control-allow-credentials" not in headers


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(["mcp-param-a", "Mcp-Param-\r\nx", "x", "mcp-param-"])).map(",".join).map(str.encode)
)
def test_a_preflight_response_lists_only_known_headers(asked):
    status, headers = answered(
        "OPTIONS",
        (b"origin", APP.encode()),
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", asked),
    )
    expected = words(
        answered("OPTIONS", (b"origin", APP.encode()), (b"access-control-request-method", b"POST"))[1][
            b"access-control-allow-headers"
        ][0].decode()
    )
    allowed = headers[b"access-control-allow-headers"][0].decode()
    assert status == 200
    assert all(re.fullmatch(r"mcp-param-[!#$%&'*+.^_`|~0-9a-z-]+", name) for name in words(allowed) - expected)
    assert "\r" not in allowed
    assert "\n" not in allowed


def test_a_request_with_two_origins_gets_no_cors_headers():
    status, headers = answered("OPTIONS", *[(b"origin", APP.encode())] * 2, (b"access-control-request-method", b"POST"))
    assert status == 403
    assert b"access-control-allow-origin" not in headers
