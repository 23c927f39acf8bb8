"""HTTP of a hosted server, in memory: methods, paths, health checks, refused requests."""

import asyncio

import pytest
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer

from mcp_server.app import build_server
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.drain import DRAIN_SECONDS
from mcpfleet_server.hosting.runner import log_warnings, uvicorn_config
from mcpfleet_server.hosting.settings import Settings, load_settings
from tests.unit.mcp_server.wire import call, get, started

pytestmark = pytest.mark.anyio

ACCEPT = {"accept": "application/json, text/event-stream"}
LIST = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}


@pytest.fixture
def server():
    return build_server(Settings())


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_the_mcp_path_accepts_only_post(serving, server, method, path):
    async with serving(server) as http:
        response = await http.request(method, path, headers=ACCEPT)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"


async def test_a_trailing_slash_is_the_same_endpoint_without_a_redirect(serving, server):
    async with serving(server) as http:
        plain = await http.post("/mcp", json=LIST, headers=ACCEPT)
        slash = await http.post("/mcp/", json=LIST, headers=ACCEPT)
    assert plain.status_code == slash.status_code == 200
    assert slash.text == plain.text
    assert "location" not in slash.headers


@pytest.mark.parametrize("path", ["/", "/health/", "/mcp//", "/mcp/x", "/sse", "/MCP"])
async def test_every_other_path_is_not_found(serving, server, path):
    async with serving(server) as http:
        response = await http.post(path, json=LIST, headers=ACCEPT)
    assert response.status_code == 404


async def test_the_path_can_be_configured(serving, server):
    async with serving(server, MCP_PATH="/v1/tools") as http:
        assert (await http.post("/v1/tools/", json=LIST, headers=ACCEPT)).status_code == 200
        assert (await http.get("/v1/tools")).status_code == 405
        assert (await http.post("/mcp", json=LIST, headers=ACCEPT)).status_code == 404


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_a_legacy_only_server_does_not_serve_streamable_http(serving, server, method):
    async with serving(server, MCP_TRANSPORTS="sse") as http:
        response = await http.request(method, "/mcp", headers=ACCEPT)
    assert response.status_code == 404
    assert "MCP_TRANSPORTS" in response.json()["error"]["message"]


@pytest.mark.parametrize("method", ["HEAD", "PUT"])
@pytest.mark.parametrize("kind", [MCPServer, Server], ids=["MCPServer", "low-level"])
async def test_the_legacy_stream_is_opened_only_by_get(serving, kind, method):
    async with serving(kind("shop"), MCP_TRANSPORTS="sse") as http:
        response = await asyncio.wait_for(http.request(method, "/sse", headers=ACCEPT), 5)
    assert response.status_code == 405
    assert response.headers["allow"] == "GET"


async def test_health_checks_are_answered_for_any_host(serving, server):
    async with serving(server) as http:
        response = await http.get("/health", headers={"host": "10.8.0.3:8080"})
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


async def test_a_foreign_host_gets_a_json_rpc_error_that_names_the_variable(serving, server):
    async with serving(server, MCP_ALLOWED_HOSTS="mcp-reference-*.run.app") as http:
        accepted = await http.post("/mcp", json=LIST, headers=ACCEPT | {"host": "mcp-reference-1.europe-west1.run.app"})
        foreign = await http.post("/mcp", json=LIST, headers=ACCEPT | {"host": "evil.test"})
    assert accepted.status_code == 200
    assert foreign.status_code == 421
    assert foreign.json()["error"]["code"] == -32600
    assert "MCP_ALLOWED_HOSTS" in foreign.json()["error"]["message"]


async def test_a_refusal_names_the_configured_variable(server, caplog):
    hosts = {"MCPFLEET_ALLOWED_HOSTS": "mcp.example.org", "MCPFLEET_TRANSPORTS": "sse"}
    async with started(build_app(server, load_settings(hosts))) as app:
        _, host = await get(app, "/", headers=[(b"host", b"evil.test")]).answer()
        _, origin = await get(app, "/", headers=[(b"origin", b"https://evil.test")]).answer()
        _, transport = await get(app, "/mcp").answer()
    assert "MCPFLEET_ALLOWED_HOSTS" in host["error"]["message"]
    assert "MCP_ALLOWED_ORIGINS" in origin["error"]["message"]
    assert "MCPFLEET_TRANSPORTS" in transport["error"]["message"]
    assert "MCPFLEET_ALLOWED_HOSTS" in caplog.text


async def test_a_foreign_origin_gets_a_json_rpc_error_and_never_reaches_a_tool(serving, server):
    async with serving(server) as http:
        response = await http.post("/mcp", json=LIST, headers=ACCEPT | {"origin": "https://evil.test"})
    assert response.status_code == 403
    assert "MCP_ALLOWED_ORIGINS" in response.json()["error"]["message"]


async def test_a_post_to_the_health_path_gets_the_host_check(serving, server):
    async with serving(server) as http:
        response = await http.post("/health", headers={"host": "evil.test"})
    assert response.status_code == 421


def test_the_drain_ends_before_uvicorns_and_cloud_runs_deadlines(server):
    settings = Settings(PORT="9001", FORWARDED_ALLOW_IPS="*")
    config = uvicorn_config(build_app(server, settings), settings)
    assert 5 <= DRAIN_SECONDS < config.timeout_graceful_shutdown < 10
    assert config.forwarded_allow_ips == "*"


def test_on_cloud_run_without_hosts_the_log_says_that_every_call_will_be_refused(caplog):
    caplog.set_level("WARNING")
    log_warnings(Settings(K_SERVICE="mcp-reference", MCP_ALLOWED_HOSTS="mcp-reference-*.run.app"))
    log_warnings(Settings(K_SERVICE="mcp-reference", MCP_BASE_URL="https://mcp.example.org"))
    assert caplog.text == ""
    log_warnings(Settings(K_SERVICE="mcp-reference"))
    assert "MCP_ALLOWED_HOSTS is empty" in caplog.text


@pytest.mark.parametrize("modern", [False, True])
async def test_a_response_of_five_megabytes_arrives_complete(modern):
    server, text = MCPServer("shop"), "ä\n" * 2_500_000

    async def big() -> str:
        return text

    server.add_tool(big, name="big")
    async with started(build_app(server, Settings())) as app:
        status, answer = await call(app, "big", modern=modern).answer()
    assert status == 200
    assert answer["result"]["content"][0]["text"] == text
