"""`mcpfleet call`, and the four outcomes of a call, against servers in memory."""

import asyncio
import json

import httpx2
import pytest
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError

from mcpfleet import server_commands
from mcpfleet.errors import McpfleetError
from mcpfleet.server_commands import call_server
from mcpfleet.stack import DeployedServer
from mcpfleet.target import Target
from mcpfleet.tokens import IdToken
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings
from tests.unit.asgi import lifespan

URL = "http://127.0.0.1:8080"
SERVER = DeployedServer("orders", Target.parse(f"{URL}/mcp"), URL, (), {})


class Ada:
    any_audience = True
    issues_fresh_tokens = False
    name = "ada"

    def fetch(self, audience):
        return IdToken(value=f"ada|{audience}", expires_at=2**40, audience=audience)


@pytest.fixture
def orders(monkeypatch):
    for setting in Settings.model_fields.values():
        monkeypatch.delenv(str(setting.validation_alias), raising=False)
    return build_orders()


def build_orders():
    """An application with a tool for each outcome."""
    server = MCPServer("orders")

    @server.tool()
    def count(customer: str) -> str:
        return f"{customer}\nhas 3 orders"

    @server.tool()
    def cancel(order: int) -> str:
        raise ToolError("the database is away")

    @server.tool()
    def refuse() -> str:
        raise MCPError(-32001, "not today \x1b[2J")

    return build_app(server, Settings())


def call_tool(app, tool, **arguments):
    async def run():
        async with lifespan(app):
            return await call_server(SERVER, Ada(), tool, arguments, transport=httpx2.ASGITransport(app))

    return asyncio.run(asyncio.wait_for(run(), 20))


def test_an_answer_has_the_text_and_the_whole_result(orders):
    outcome = call_tool(orders, "count", customer="acme")
    assert (outcome.outcome, outcome.text, outcome.failure) == ("answered", "acme\nhas 3 orders", None)
    assert outcome.result["content"][0] == {"type": "text", "text": "acme\nhas 3 orders"}


def test_an_error_of_the_tool_is_not_an_error_of_the_protocol(orders):
    outcome = call_tool(orders, "cancel", order=1)
    assert (outcome.outcome, outcome.code) == ("tool_error", None)
    assert "(isError): Error executing tool cancel: the database is away" in outcome.failure


def test_a_json_rpc_error_has_its_code_and_no_control_characters(orders):
    outcome = call_tool(orders, "refuse")
    assert (outcome.outcome, outcome.code) == ("protocol_error", -32001)
    assert "JSON-RPC error -32001: not today \\u001b[2J" in outcome.failure


def only_calls(app, status, content_type, body=b"{}"):
    """The application, except that each call of a tool gets this response."""

    async def failing(scope, receive, send):
        if dict(scope.get("headers", ())).get(b"mcp-method") != b"tools/call":
            await app(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", content_type)]})
        await send({"type": "http.response.body", "body": body})

    return failing


@pytest.mark.parametrize("content_type", [b"text/html", b"application/json"])
@pytest.mark.parametrize("status", [403, 500, 503])
def test_an_http_error_has_its_status(orders, status, content_type):
    outcome = call_tool(only_calls(orders, status, content_type), "count", customer="acme")
    assert (outcome.outcome, outcome.code, outcome.result) == ("http_error", status, None)
    assert f"HTTP {status}: " in outcome.failure


def test_a_json_rpc_error_with_an_http_status_of_its_own_is_a_json_rpc_error(orders):
    body = b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32602, "message": "no such customer"}}'
    outcome = call_tool(only_calls(orders, 400, b"application/json", body), "count", customer="acme")
    assert (outcome.outcome, outcome.code, outcome.text) == ("protocol_error", -32602, "no such customer")


def test_a_server_that_cannot_be_reached_is_an_http_error_without_a_status():
    def refuse(_request):
        raise httpx2.ConnectError("connection refused")

    outcome = asyncio.run(call_server(SERVER, Ada(), "count", {}, transport=httpx2.MockTransport(refuse)))
    assert (outcome.outcome, outcome.code) == ("http_error", None)
    assert "connection refused" in outcome.failure


def test_a_server_that_never_answers_costs_no_more_than_the_limit():
    class Never(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await asyncio.Event().wait()

    outcome = asyncio.run(call_server(SERVER, Ada(), "count", {}, limit=0.01, transport=Never()))
    assert (outcome.outcome, outcome.text) == ("http_error", "it did not end within 0.01 s (--timeout)")


def test_a_caller_without_an_identity_gets_the_reason():
    with pytest.raises(McpfleetError, match="no identity on this machine may call it"):
        asyncio.run(call_server(SERVER, None, "count", {}))


@pytest.fixture
def command(run_command, monkeypatch, google, tmp_path):
    """Runs `mcpfleet call` against the application."""

    async def in_memory(*arguments):
        app = build_orders()
        async with lifespan(app):
            return await call_server(*arguments, transport=httpx2.ASGITransport(app))

    monkeypatch.setattr(server_commands, "call_server", in_memory)
    google.clock.now = 4_000_000_000.0  # a token that is valid by the real clock
    token = tmp_path / "token"
    token.write_text(google.mint(URL))

    def run(tool, *options):
        return run_command("call", f"{URL}/mcp", tool, "--token-file", str(token), *options)

    return run


def test_each_outcome_has_its_exit_code(command, tmp_path):
    (tmp_path / "arguments.json").write_text('{"customer": "acme"}')
    assert command("count", "--arguments", "@arguments.json") == (0, "acme\nhas 3 orders\n", "")
    code, out, err = command("cancel", "--arguments", '{"order": 1}')
    assert (code, out, "(isError)" in err) == (3, "", True)
    code, out, err = command("refuse")
    assert (code, out, "JSON-RPC error -32001" in err) == (4, "", True)


def test_json_has_the_outcome_and_the_result(command):
    code, out, _ = command("cancel", "--arguments", '{"order": 1}', "--json")
    outcome = json.loads(out)
    assert (code, outcome["outcome"], outcome["result"]["isError"]) == (3, "tool_error", True)


@pytest.mark.parametrize("arguments", ["[1]", "@gone.json", "@", "{"])
def test_arguments_that_are_no_object_are_one_message_before_any_call(command, arguments):
    code, out, err = command("count", "--arguments", arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Error: --arguments")
