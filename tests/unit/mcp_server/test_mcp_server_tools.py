"""The tools of the reference server, through the official client, in each protocol version."""

import pytest
from mcp.client.client import Client

import mcp_server
from mcp_server.app import build_server
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.tokens import ADA, GOOGLE, id_token

pytestmark = pytest.mark.anyio


@pytest.fixture
def server():
    return build_server(Settings())


async def test_the_server_reports_its_name_version_and_tools(connected, server):
    async with connected(server) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert client.server_info.version == mcp_server.__version__
    assert list(tools)[:4] == ["add", "echo", "whoami", "countdown"]
    assert [name for name, tool in tools.items() if not tool.annotations.read_only_hint] == ["order_tea"]
    assert not tools["order_tea"].annotations.destructive_hint
    assert all(tool.description for tool in tools.values())


async def test_add_returns_the_sum(connected, server):
    async with connected(server) as client:
        result = await client.call_tool("add", {"a": 2**53, "b": -1})
    assert not result.is_error
    assert result.structured_content == {"result": 2**53 - 1}


async def test_echo_gives_any_text_back_unchanged(connected, server):
    text = " Grüße \U0001f980\r\n\n\x00 data: x\n"
    async with connected(server) as client:
        result = await client.call_tool("echo", {"text": text})
    assert result.structured_content == {"result": text}


async def test_wrong_arguments_are_a_tool_error_that_names_the_field(connected, server):
    async with connected(server) as client:
        result = await client.call_tool("add", {"a": 1, "b": "two"})
    assert result.is_error
    assert "b" in result.content[0].text
    assert "Traceback" not in result.content[0].text


async def test_countdown_reports_each_second_and_then_its_result(connected):
    waited, reports = [], []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def report(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    async with connected(build_server(Settings(), sleep=sleep)) as client:
        result = await client.call_tool("countdown", {"seconds": 3}, progress_callback=report)
    assert result.structured_content == {"seconds": 3}
    assert waited == [1, 1, 1]
    assert reports == [(0, 3, "3 s left"), (1, 3, "2 s left"), (2, 3, "1 s left"), (3, 3, "done")]


@pytest.mark.parametrize("seconds", [0, 61])
async def test_countdown_refuses_too_many_and_no_seconds(connected, server, seconds):
    async with connected(server) as client:
        result = await client.call_tool("countdown", {"seconds": seconds})
    assert result.is_error
    assert "seconds" in result.content[0].text


async def test_whoami_reports_service_revision_and_protocol_version(connected, protocol):
    settings = Settings(K_SERVICE="mcp-reference", K_REVISION="mcp-reference-00001-abc")
    async with connected(build_server(settings)) as client:
        result = await client.call_tool("whoami", {})
    assert result.structured_content == {
        "service": "mcp-reference",
        "revision": "mcp-reference-00001-abc",
        "caller": None,
        "protocol": "2025-11-25" if protocol == "legacy" else "2026-07-28",
    }


@pytest.mark.parametrize(
    ("headers", "caller"),
    [
        ({"authorization": f"Bearer {id_token(ADA)}"}, "ada@mcpfleet.test"),
        ({"authorization": f"bearer {id_token(ADA)}"}, "ada@mcpfleet.test"),
        ({"authorization": f"Bearer {id_token(GOOGLE | {'sub': '1'})}"}, "1"),
        ({"authorization": f"Bearer {id_token(GOOGLE | {'sub': '10'})}"}, "10"),
        ({"authorization": f"Bearer {id_token(GOOGLE | {'sub': '100'})}"}, "100"),
        # The app's own token may be in Authorization; Cloud Run checked the other header.
        ({"authorization": "Bearer app", "x-serverless-authorization": f"Bearer {id_token(ADA)}"}, "ada@mcpfleet.test"),
        ({"authorization": f"Bearer {id_token(ADA)}", "x-serverless-authorization": "Bearer x"}, None),
        # Still signed: the front end has not checked it.
        ({"authorization": f"Bearer {id_token(ADA, 'c2lnbmF0dXJl')}"}, None),
        ({"authorization": f"Bearer {id_token(ADA, '')}"}, None),
        ({"authorization": f"Basic {id_token(ADA)}"}, None),
        ({"authorization": f"Bearer {id_token(GOOGLE | {'email': 'ada@mcpfleet.test'})}"}, None),
        ({"authorization": f"Bearer {id_token(GOOGLE | {'sub': 1})}"}, None),
        ({"authorization": f"Bearer {id_token({'sub': '1'})}"}, None),
        # An address that Google has not verified, or that another issuer tells.
        ({"authorization": f"Bearer {id_token(ADA | {'email_verified': False})}"}, "1001"),
        ({"authorization": f"Bearer {id_token(ADA | {'email_verified': 'true'})}"}, "1001"),
        ({"authorization": f"Bearer {id_token(ADA | {'iss': 'https://evil.test'})}"}, "1001"),
        ({"authorization": f"Bearer {id_token(['sub'])}"}, None),
        ({"authorization": f"Bearer {id_token('[' * 100_000)}"}, None),
        ({"authorization": "Bearer a.!!!.SIGNATURE_REMOVED_BY_GOOGLE"}, None),
        ({"authorization": "Bearer a.YQ.SIGNATURE_REMOVED_BY_GOOGLE"}, None),
        ({"authorization": "Bearer ..SIGNATURE_REMOVED_BY_GOOGLE"}, None),
        ({}, None),
    ],
)
async def test_whoami_reports_only_a_caller_verified_by_cloud_run(connected, server, headers, caller):
    async with connected(server, headers=headers, MCP_ACCESS="iam") as client:
        result = await client.call_tool("whoami", {})
    assert not result.is_error
    assert result.structured_content["caller"] == caller


async def test_the_tools_work_without_http(protocol, server):
    async with Client(server, mode=protocol) as client:
        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        assert (await client.call_tool("whoami", {})).structured_content["caller"] is None


async def test_a_2026_client_may_cache_the_list_of_tools_for_five_minutes(server):
    async with Client(server, mode="2026-07-28") as client:
        listed = await client.list_tools()
    assert (listed.ttl_ms, listed.cache_scope) == (300_000, "public")
