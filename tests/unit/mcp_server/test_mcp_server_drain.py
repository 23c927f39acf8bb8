"""Graceful shutdown: running calls finish or get an error, and streams end."""

import asyncio

import pytest
from mcp.server.mcpserver import Context, MCPServer

from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.drain import Drain
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.wire import call, get, message, post, started

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["legacy", "modern"])
def modern(request):
    return request.param


class Slow:
    """A tool that blocks until the test releases it."""

    def __init__(self, drain_seconds=5.0, **environment):
        self.gate, self.entered = asyncio.Event(), asyncio.Event()
        server = MCPServer("slow")

        @server.tool()
        async def wait(ctx: Context) -> str:
            await ctx.report_progress(0, 1)
            self.entered.set()
            await self.gate.wait()
            return "done"

        self.app = build_app(server, Settings(**environment), drain_seconds=drain_seconds)


@pytest.mark.parametrize("progress", [None, "p"], ids=["json", "stream"])
async def test_a_call_in_flight_finishes(modern, progress):
    slow = Slow()
    async with started(slow.app) as app:
        request = call(app, "wait", modern=modern, progress=progress)
        await asyncio.wait_for(slow.entered.wait(), 5)
        end = asyncio.create_task(slow.app.drain.end())
        await asyncio.sleep(0)
        assert not end.done()
        slow.gate.set()
        await asyncio.wait_for(end, 5)
        await request.start()
        if progress:
            await request.event()
        body, has_more = await request.part()
    assert b'"done"' in body
    assert not has_more


@pytest.mark.parametrize("progress", [None, "p"], ids=["json", "stream"])
async def test_a_call_that_does_not_finish_in_time_gets_an_error_that_says_to_retry(modern, progress):
    slow = Slow(drain_seconds=0.01)
    async with started(slow.app) as app:
        request = call(app, "wait", modern=modern, progress=progress)
        await asyncio.wait_for(slow.entered.wait(), 5)
        await asyncio.wait_for(slow.app.drain.end(), 5)
        status, _ = await request.start()
        if progress:
            await request.event()
        body, has_more = await request.part()
        await asyncio.wait_for(request.task, 5)
    assert status == 200
    assert b'"code":-32000' in body
    assert b"Call again" in body
    assert not has_more


async def test_a_subscription_ends_with_its_result():
    slow = Slow()
    async with started(slow.app) as app:
        stream = post(app, message("subscriptions/listen", {"notifications": {"toolsListChanged": True}}))
        await stream.start()
        await stream.event()
        await asyncio.wait_for(slow.app.drain.end(), 5)
        last = await stream.event()
        await asyncio.wait_for(stream.task, 5)
    assert last["result"]["resultType"] == "complete"


async def test_the_legacy_stream_ends_with_an_event():
    slow = Slow(MCP_TRANSPORTS="streamable-http,sse")
    async with started(slow.app) as app:
        stream = get(app, "/sse", headers=[(b"accept", b"text/event-stream")])
        status, headers = await stream.start()
        endpoint, _ = await stream.part()
        await asyncio.wait_for(slow.app.drain.end(), 5)
        word, has_more = await stream.part()
        assert has_more
        last, has_more = await stream.part()
        await asyncio.wait_for(stream.task, 5)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert b"/messages/?session_id=" in endpoint
    assert word == b": the server is shutting down; connect again\r\n\r\n"
    assert (last, has_more) == (b"", False)


async def test_a_draining_process_is_alive_and_not_ready():
    slow = Slow()
    async with started(slow.app) as app:
        for path in ("/ready", "/health"):
            assert (await get(app, path).answer())[0] == 200
        await slow.app.drain.end()
        assert (await get(app, "/ready").answer())[0] == 503
        assert (await get(app, "/health").answer())[0] == 200


async def test_a_process_is_not_ready_before_its_lifespan_has_begun():
    app = Slow().app
    assert (await get(app, "/ready").answer())[0] == 503
    assert (await get(app, "/health").answer())[0] == 200


async def test_an_idle_process_exits_at_once():
    await asyncio.wait_for(Drain(seconds=60).end(), 5)


async def test_an_unfinished_call_of_a_session_gets_the_error_on_its_own_stream():
    slow = Slow(drain_seconds=0.05, MCP_STATELESS="false")
    async with started(slow.app) as app:
        initialize = message(
            "initialize",
            {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
            modern=False,
        )
        opened = post(app, initialize, modern=False)
        _, headers = await opened.start()
        session = [(b"mcp-session-id", headers["mcp-session-id"].encode())]
        await opened.task
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized", "params": {}}
        await post(app, initialized, modern=False, headers=session).task
        request = call(app, "wait", modern=False, headers=session)
        await request.start()
        await asyncio.wait_for(slow.entered.wait(), 5)
        await asyncio.wait_for(slow.app.drain.end(), 5)
        body, _ = await request.part()
        await asyncio.wait_for(request.task, 5)
    assert b'"code":-32000' in body


def test_the_shutdown_deadline_counts_from_the_signal():
    now = [100.0]
    drain = Drain(clock=lambda: now[0])
    assert not drain.is_ending
    assert drain.remaining_seconds(9.5) == 9.5
    drain.begin()
    now[0] = 104.0
    drain.begin()
    assert drain.is_ending
    assert drain.remaining_seconds(9.5) == 5.5
    now[0] = 200.0
    assert drain.remaining_seconds(9.5) == 0.5
