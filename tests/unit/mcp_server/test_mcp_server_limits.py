"""Limits by tool: which calls wait, which are refused, and that other tools are not affected."""

import asyncio
import threading

import pytest
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp_types import CallToolResult, ListToolsResult, Tool

from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.adapt import lowlevel_of
from mcpfleet_server.hosting.middleware import UNKNOWN_TOOL, ToolNames
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.wire import call, message, post, started

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["legacy", "modern"])
def modern(request):
    return request.param


class Kitchen:
    """Tools that block until the test releases them."""

    def __init__(self, **environment):
        self.running, self.most = 0, 0
        self.gate = asyncio.Event()
        self.thread_gate = threading.Event()
        server = MCPServer("kitchen")

        async def cook() -> str:
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self.gate.wait()
            finally:
                self.running -= 1
            return "served"

        def roast() -> str:
            self.running += 1
            self.thread_gate.wait(10)
            self.running -= 1
            return "served"

        server.add_tool(cook, name="cook")
        server.add_tool(cook, name="bake")
        server.add_tool(roast, name="roast")
        self.server = server
        self.app = build_app(server, Settings(**environment))


async def settled():
    """Let everything run that can."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_calls_over_a_tools_limit_wait_and_are_all_served(modern):
    kitchen = Kitchen(MCP_TOOL_CONCURRENCY="cook=2")
    async with started(kitchen.app) as app:
        requests = [call(app, "cook", modern=modern) for _ in range(5)]
        other = [call(app, "bake", modern=modern) for _ in range(3)]
        await settled()
        assert kitchen.running == 2 + 3
        kitchen.gate.set()
        answers = [await request.answer() for request in (*requests, *other)]
    assert all(answer["result"]["content"][0]["text"] == "served" for _, answer in answers)


async def test_the_default_limit_applies_to_each_tool_separately(modern):
    kitchen = Kitchen(MCP_TOOL_CONCURRENCY="1")
    async with started(kitchen.app) as app:
        requests = [call(app, name, modern=modern) for name in ("cook", "cook", "bake", "bake")]
        await settled()
        assert kitchen.running == 2
        kitchen.gate.set()
        for request in requests:
            await request.answer()


async def test_a_waiting_client_that_leaves_frees_its_place(modern):
    kitchen = Kitchen(MCP_TOOL_CONCURRENCY="1")
    async with started(kitchen.app) as app:
        first = call(app, "cook", modern=modern)
        await settled()
        cancelled = call(app, "cook", modern=modern)
        third = call(app, "cook", modern=modern)
        cancelled.hang_up()
        await asyncio.wait_for(cancelled.task, 5)
        kitchen.gate.set()
        await first.answer()
        await third.answer()
    assert kitchen.most == 1


async def test_a_call_that_takes_too_long_is_cancelled_with_an_error(modern):
    kitchen = Kitchen(MCP_TOOL_TIMEOUT="cook=0.05")
    async with started(kitchen.app) as app:
        status, answer = await call(app, "cook", modern=modern).answer()
        assert kitchen.running == 0
    assert status == 200
    assert answer["error"] == {
        "code": -32001,
        "message": "Tool cook took longer than 0.05 s and was stopped",
        "data": {"tool": "cook", "seconds": 0.05},
    }


async def test_waiting_counts_towards_the_timeout(modern):
    kitchen = Kitchen(MCP_TOOL_CONCURRENCY="1", MCP_TOOL_TIMEOUT="bake=0.05")
    async with started(kitchen.app) as app:
        # Another limit than the next one's, and the same place: the tool's own.
        first = call(app, "bake", modern=modern)
        second = call(app, "bake", modern=modern)
        codes = [(await request.answer())[1]["error"]["code"] for request in (first, second)]
    assert codes == [-32001, -32001]


async def test_a_blocking_tool_past_its_timeout_is_answered_and_keeps_its_place(modern):
    kitchen = Kitchen(MCP_TOOL_TIMEOUT="*=0.05", MCP_TOOL_CONCURRENCY="roast=1")
    async with started(kitchen.app) as app:
        _, first = await call(app, "roast", modern=modern).answer()
        _, second = await call(app, "roast", modern=modern).answer()
        assert kitchen.running == 1
        kitchen.thread_gate.set()
    assert first["error"]["code"] == second["error"]["code"] == -32001


async def test_unknown_tool_names_do_not_fill_the_memory():
    kitchen = Kitchen(MCP_TOOL_CONCURRENCY="1", MCP_LOG_LEVEL="ERROR")
    async with started(kitchen.app) as app:
        for number in range(200):
            _, answer = await call(app, f"no-{number}", modern=False).answer()
            assert answer["result"]["isError"]


def lowlevel(run):
    """A server whose tools are known only from `tools/list`."""

    async def listed(ctx, params):
        tools = [Tool(name=name, input_schema={"type": "object"}) for name in ("cook", "bake")]
        return ListToolsResult(tools=tools)

    async def called(ctx, params):
        await run(params.name)
        return CallToolResult(content=[])

    return Server("kitchen", on_list_tools=listed, on_call_tool=called)


async def test_unknown_tool_names_get_no_limit_of_their_own(modern):
    """A low-level server may take `COOK` for `cook`; and 10,000 names once made every place anew."""
    running, counts, gate = [], [], asyncio.Event()

    async def run(name):
        running.append(name)
        counts.append(len(running))
        await gate.wait()
        running.remove(name)

    async with started(build_app(lowlevel(run), Settings(MCP_TOOL_CONCURRENCY="cook=1,*=1"))) as app:
        await post(app, message("tools/list", modern=modern), modern=modern).answer()
        requests = [call(app, name, modern=modern) for name in ("cook", "COOK", "cOOK", "bake", "x-1", "x-2")]
        await settled()
        assert sorted(name.lower() for name in running) == ["bake", "cook", "cook"], "one made-up name at a time"
        gate.set()
        for request in requests:
            await request.start()


@pytest.mark.parametrize("make", [lambda: Kitchen().server, lambda: lowlevel(_nothing)], ids=["sdk", "low-level"])
async def test_unknown_tool_names_create_no_metrics(make):
    server = make()
    tools = ToolNames(server if isinstance(server, Server) else lowlevel_of(server), {"named"})
    assert [tools.resolve(name) for name in ("named", "nothing", None, 3)] == [
        "named",
        UNKNOWN_TOOL,
        UNKNOWN_TOOL,
        UNKNOWN_TOOL,
    ]


async def test_a_tool_is_known_by_the_list_or_by_a_successful_call():
    tools = ToolNames(lowlevel(_nothing))
    tools.record_answer("cook")
    tools.record_list({"tools": [{"name": "bake"}, {"name": 3}, None]})
    tools.record_answer("COOK")
    assert [tools.resolve(name) for name in ("cook", "bake", "COOK")] == ["cook", "bake", UNKNOWN_TOOL]
    for number in range(20_000):
        tools.record_list({"tools": [{"name": f"{number}"}]})
    assert tools.resolve("19999") == UNKNOWN_TOOL, "bounded, whatever the server says"


async def _nothing(name):
    pass


async def test_the_log_marks_unknown_tools_and_keeps_the_requested_name(logged):
    kitchen = Kitchen()
    async with started(kitchen.app) as app:
        await call(app, "no\nsuch " + "x" * 500, modern=False).answer()
    (line,) = [entry for entry in logged() if entry["message"].startswith("tools/call")]
    assert line["fields"]["tool"] == UNKNOWN_TOOL
    assert line["message"].startswith(r"tools/call 'no\nsuch xxx")
    assert len(line["message"]) < 200
