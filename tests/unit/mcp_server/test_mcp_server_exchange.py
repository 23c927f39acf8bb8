"""Tests of one POST and its response: JSON, or an event stream if there is more than one message."""

import asyncio
import json
import logging

import anyio
import pytest
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import CallToolResult, ListToolsResult, TextContent, Tool

from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.wire import Request, call, message, post, scope_of, started

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["legacy", "modern"])
def modern(request):
    return request.param


class Shop:
    """A server whose tool stops where the test wants it to."""

    def __init__(self, **environment):
        self.server = MCPServer("shop")
        self.entered, self.gate, self.cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

        @self.server.tool()
        async def sell(count: int = 1) -> int:
            return count

        @self.server.tool()
        async def wait(ctx: Context, reports: int = 0) -> str:
            for number in range(reports):
                await ctx.report_progress(number, reports)
            self.entered.set()
            try:
                await self.gate.wait()
            except BaseException:
                self.cancelled.set()
                raise
            return "done"

        @self.server.tool()
        async def fail() -> str:
            raise ValueError("the database password is hunter2")

        @self.server.tool()
        async def refuse() -> str:
            raise ToolError("sold out")

        @self.server.tool()
        async def odd() -> dict[str, float]:
            return {"nan": float("nan"), "inf": float("inf")}

        self.app = build_app(self.server, Settings(**environment))


async def test_a_call_without_progress_is_answered_as_json(modern):
    async with started(Shop().app) as app:
        status, answer = await call(app, "sell", {"count": 3}, modern=modern).answer()
    assert status == 200
    assert answer["id"] == 1
    assert answer["result"]["structuredContent"] == {"result": 3}
    assert ("resultType" in answer["result"]) is modern


async def test_the_first_progress_report_starts_an_event_stream(modern):
    shop = Shop()
    async with started(shop.app) as app:
        request = call(app, "wait", {"reports": 2}, modern=modern, progress="p")
        status, headers = await request.start()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert headers["x-accel-buffering"] == "no"
        first, second = await request.event(), await request.event()
        assert first["params"] == {"progressToken": "p", "progress": 0, "total": 2}
        assert second["params"]["progress"] == 1
        shop.gate.set()
        assert (await request.event())["result"]["content"][0]["text"] == "done"
        await request.task


async def test_no_text_of_a_caller_or_a_tool_ends_a_line_of_the_event_stream(modern):
    """A reader that splits at U+2028 too, as httpx does, would find fields and events that were never sent."""
    planted = "\u2028\u2028data: {}\u2029\x85event: message\r\n\r\ndata: {}\n\n"
    server = MCPServer("shop")

    @server.tool()
    async def echo(ctx: Context, text: str) -> str:
        await ctx.report_progress(1, 2, text)
        return text

    async with started(build_app(server, Settings())) as app:
        request = call(app, "echo", {"text": planted}, modern=modern, progress=planted)
        await request.start()
        for _ in range(2):
            part, _ = await request.part()
            assert len(part.decode().splitlines()) == 3
        await request.task
    assert json.loads(part.decode().splitlines()[1].removeprefix("data: "))["result"]["content"][0]["text"] == planted


async def test_progress_is_sent_only_on_request(modern):
    shop = Shop()
    shop.gate.set()
    async with started(shop.app) as app:
        _, answer = await call(app, "wait", {"reports": 2}, modern=modern).answer()
    assert answer["result"]["content"][0]["text"] == "done"


async def test_a_disconnected_client_cancels_its_call(modern):
    shop = Shop()
    async with started(shop.app) as app:
        request = call(app, "wait", modern=modern)
        await asyncio.wait_for(shop.entered.wait(), 5)
        request.hang_up()
        await asyncio.wait_for(shop.cancelled.wait(), 5)
        await asyncio.wait_for(request.task, 5)
        assert request.out.empty()


async def test_a_long_call_without_progress_sends_comments(modern, monkeypatch):
    monkeypatch.setattr("mcpfleet_server.hosting.call.KEEPALIVE_SECONDS", 0.01)
    shop = Shop()
    async with started(shop.app) as app:
        request = call(app, "wait", modern=modern)
        status, headers = await request.start()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        for _ in range(3):
            body, has_more = await request.part()
            assert body.startswith(b": ")
            assert has_more
        shop.gate.set()
        body = b": "
        while body.startswith(b": "):
            body, has_more = await request.part()
        assert b'"done"' in body
        assert not has_more


async def test_a_crash_does_not_reveal_its_cause_to_the_client(modern):
    async with started(Shop().app) as app:
        status, answer = await call(app, "fail", modern=modern).answer()
    assert status == 200
    assert answer["result"]["isError"] is True
    assert "hunter2" not in json.dumps(answer)


async def test_a_tools_deliberate_error_message_reaches_the_client(modern):
    async with started(Shop().app) as app:
        _, answer = await call(app, "refuse", modern=modern).answer()
    assert answer["result"]["isError"] is True
    assert "sold out" in answer["result"]["content"][0]["text"]


async def test_numbers_that_json_cannot_represent_become_null(modern):
    async with started(Shop().app) as app:
        request = call(app, "odd", modern=modern)
        await request.start()
        body, _ = await request.part()
    answer = json.loads(body, parse_constant=lambda word: pytest.fail(f"{word} is not valid JSON"))
    assert answer["result"]["structuredContent"] == {"nan": None, "inf": None}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"accept", b"application/json")], 406),
        ([(b"accept", b"text/event-stream")], 406),
        ([(b"accept", None)], 200),
        ([(b"accept", b"*/*")], 200),
        ([(b"accept", b"text/*;q=0.5, application/*")], 200),
        ([(b"content-type", b"text/plain")], 415),
        ([(b"content-type", None)], 415),
        ([(b"content-type", b"application/json; charset=utf-8")], 200),
        ([(b"content-length", b"99999999")], 413),
    ],
)
async def test_wrong_accept_and_content_type_headers_are_refused(modern, headers, status):
    async with started(Shop().app) as app:
        actual, answer = await call(app, "sell", modern=modern, headers=headers).answer()
    assert actual == status
    assert ("error" in answer) is (status != 200)


async def test_a_body_over_the_limit_is_refused_before_it_is_read_completely(modern):
    shop = Shop(MCP_MAX_BODY_BYTES="2048")
    content = message(params={"name": "sell", "arguments": {}}, modern=modern)
    async with started(shop.app) as app:
        sent = []
        parts = 0

        async def receive():
            nonlocal parts
            parts += 1
            return {"type": "http.request", "body": b" " * 1000, "more_body": True}

        async def send(one):
            sent.append(one)

        await app(scope_of(content, modern=modern), receive, send)
    assert sent[0]["status"] == 413
    assert parts == 3
    assert json.loads(sent[1]["body"])["error"]["message"].endswith("2048 bytes")


async def test_a_body_may_arrive_in_parts(modern):
    content = message(params={"name": "sell", "arguments": {"count": 7}}, modern=modern)
    body = json.dumps(content).encode()
    parts = [{"type": "http.request", "body": bytes([byte]), "more_body": True} for byte in body]
    parts.append({"type": "http.request", "body": b"", "more_body": False})
    sent = []

    async def receive():
        return parts.pop(0)

    async def send(one):
        sent.append(one)

    async with started(Shop().app) as app:
        await app(scope_of(content, modern=modern), receive, send)
    assert b'"result":7' in sent[1]["body"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"x":NaN}}',
        b'{"jsonrpc":"2.0","id":true,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":null,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}',
        b'{"jsonrpc":"1.0","id":1,"method":"tools/list"}',
        b'{"id":1,"method":"tools/list"}',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":[]}',
        b'{"jsonrpc":"2.0","id":1,"method":7}',
        b'[{"jsonrpc":"2.0","id":1,"method":"tools/list"}]',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'"\\ud800"',
    ],
)
async def test_an_invalid_request_gets_a_json_rpc_error_and_400(modern, body):
    async with started(Shop().app) as app:
        status, answer = await Request(app, scope_of(message("tools/list"), modern=modern), body).answer()
    assert status == 400
    assert answer["error"]["code"] in (-32700, -32600)
    assert answer["id"] is None


async def test_a_notification_is_accepted_and_has_no_answer(modern):
    content = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
    async with started(Shop().app) as app:
        request = post(app, content, modern=False, headers=[(b"mcp-protocol-version", b"2026-07-28")] if modern else [])
        status, _ = await request.start()
        body, _ = await request.part()
    assert (status, body) == (202, b"")


@pytest.mark.parametrize(
    ("headers", "code", "status"),
    [
        ([(b"mcp-method", b"tools/list")], -32020, 400),
        ([(b"mcp-method", None)], -32020, 400),
        ([(b"mcp-name", b"other")], -32020, 400),
        ([(b"mcp-name", None)], -32020, 400),
        ([(b"mcp-name", b"sell"), (b"mcp-name", b"sell")], -32020, 400),
        ([(b"mcp-protocol-version", b"2027-01-01")], -32020, 400),
        ([(b"mcp-name", b"=?base64?c2VsbA==?=")], None, 200),
        ([(b"mcp-name", b" sell\t")], None, 200),
    ],
)
async def test_headers_must_match_the_body(headers, code, status):
    async with started(Shop().app) as app:
        actual, answer = await call(app, "sell", headers=headers).answer()
    assert actual == status
    assert answer.get("error", {}).get("code") == code


@pytest.mark.parametrize("stateless", ["true", "false"])
async def test_a_disconnect_during_the_body_is_neither_answered_nor_an_error(modern, stateless, caplog):
    shop = Shop(MCP_STATELESS=stateless)
    async with started(shop.app) as app:
        content = message("initialize", modern=modern)
        request = Request(app, scope_of(content, modern=modern), json.dumps(content).encode(), has_more=True)
        request.hang_up()
        await asyncio.wait_for(request.task, 5)
    assert request.out.empty()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("stateless", ["true", "false"])
async def test_a_body_over_the_limit_gets_the_same_refusal_in_a_session(modern, stateless):
    shop = Shop(MCP_STATELESS=stateless, MCP_MAX_BODY_BYTES="2048")
    async with started(shop.app) as app:
        status, answer = await post(
            app, message("initialize", {"x": "a" * 2048}, modern=modern), modern=modern
        ).answer()
    assert status == 413
    assert answer["error"]["message"] == "The body is larger than 2048 bytes"


async def test_an_unknown_method_is_404_for_a_modern_client_and_200_for_an_older_one(modern):
    async with started(Shop().app) as app:
        status, answer = await post(app, message("tools/none", modern=modern), modern=modern).answer()
    assert status == (404 if modern else 200)
    assert answer["error"]["code"] == -32601


async def test_parameter_headers_are_checked_against_a_low_level_servers_tools():
    schema = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

    async def listed(ctx, params):
        return ListToolsResult(tools=[Tool(name="pick", input_schema=schema)])

    async def picked(ctx, params):
        return CallToolResult(content=[TextContent(type="text", text=params.arguments["region"])])

    server = Server("shop", on_list_tools=listed, on_call_tool=picked)
    async with started(build_app(server, Settings())) as app:
        _, right = await call(app, "pick", {"region": "eu"}, headers=[(b"mcp-param-region", b"eu")]).answer()
        status, wrong = await call(app, "pick", {"region": "eu"}, headers=[(b"mcp-param-region", b"us")]).answer()
    assert right["result"]["content"][0]["text"] == "eu"
    assert (status, wrong["error"]["code"]) == (400, -32020)


async def test_the_lifespans_state_reaches_the_tools(modern):
    from contextlib import asynccontextmanager

    closed = []

    @asynccontextmanager
    async def lifespan(server):
        yield {"stock": 42}
        closed.append(True)

    server = MCPServer("shop", lifespan=lifespan)

    @server.tool()
    async def stock(ctx: Context) -> int:
        return ctx.request_context.lifespan_context["stock"]

    async with started(build_app(server, Settings())) as app:
        _, answer = await call(app, "stock", modern=modern).answer()
    assert answer["result"]["structuredContent"] == {"result": 42}
    assert closed == [True]


async def test_an_object_that_is_no_mcp_server_is_refused_with_the_supported_types():
    from mcpfleet_server.hosting.adapt import UnknownServerError

    with pytest.raises(UnknownServerError, match=r"builtins\.dict can't be hosted; give an MCPServer"):
        build_app({}, Settings())


async def test_many_writers_of_one_stream_never_mix_their_events(modern):
    server = MCPServer("shop")

    @server.tool()
    async def burst(ctx: Context) -> str:
        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(ctx.report_progress, number, 50)
        return "done"

    async with started(build_app(server, Settings())) as app:
        request = call(app, "burst", modern=modern, progress=7)
        status, _ = await request.start()
        events = [await request.event() for _ in range(51)]
        await request.task
    assert status == 200
    assert sorted(event["params"]["progress"] for event in events[:-1]) == list(range(50))
    assert events[-1]["result"]["content"][0]["text"] == "done"
