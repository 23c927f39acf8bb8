"""The reference server as on Cloud Run: a process, real connections, two instances, SIGTERM."""

import asyncio
import json
import socket
import subprocess
import sys
import threading

import httpx2
import pytest
import uvicorn
from mcp.client.client import Client
from mcp.client.sse import sse_client
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route

from tests.integration.mcp_server_process import ROOT, free_port, serving

pytestmark = pytest.mark.integration

HEADERS = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
LEGACY = {**HEADERS, "mcp-protocol-version": "2025-11-25"}


@pytest.fixture
def anyio_backend():
    return "asyncio"


def countdown(seconds, *, progress=True, modern=True):
    params = {"name": "countdown", "arguments": {"seconds": seconds}, "_meta": {}}
    if progress:
        params["_meta"]["progressToken"] = "p"
    headers = LEGACY
    if modern:
        params["_meta"] |= {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        headers = {
            **HEADERS,
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": "countdown",
        }
    return {"headers": headers, "json": {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}}


class RoundRobin:
    """A front end that gives each request to the next instance, and keeps nothing."""

    def __init__(self, *urls):
        self.urls, self.turn, self.counts = urls, 0, [0] * len(urls)
        self.port = free_port()
        app = Starlette(routes=[Route("/{path:path}", self.forward, methods=["GET", "POST", "DELETE"])])
        self.server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_config=None, lifespan="off"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    async def forward(self, request):
        number = self.turn % len(self.urls)
        self.turn += 1
        self.counts[number] += 1
        client = httpx2.AsyncClient(timeout=30, trust_env=False)
        headers = [(name, value) for name, value in request.headers.items() if name not in ("host", "connection")]
        outgoing = client.build_request(
            request.method,
            f"{self.urls[number]}/{request.path_params['path']}",
            headers=headers,
            content=await request.body(),
        )
        answer = await client.send(outgoing, stream=True)

        async def body():
            try:
                async for part in answer.aiter_raw():
                    yield part
            finally:
                await answer.aclose()
                await client.aclose()

        kept = {
            name: value for name, value in answer.headers.items() if name in ("content-type", "allow", "content-length")
        }
        return StreamingResponse(body(), answer.status_code, kept)

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            threading.Event().wait(0.01)
        return self

    def __exit__(self, *error):
        self.server.should_exit = True
        self.thread.join(10)


@pytest.mark.parametrize("mode", ["legacy", "auto"])
@pytest.mark.anyio
async def test_any_instance_answers_any_request(tmp_path, mode):
    with (
        serving(tmp_path) as first,
        serving(tmp_path) as second,
        RoundRobin(first.base, second.base) as front,
    ):
        reports = []

        async def report(progress, total, message):
            reports.append(progress)

        async with Client(f"http://127.0.0.1:{front.port}/mcp", mode=mode) as client:
            for number in range(6):
                result = await client.call_tool("add", {"a": number, "b": 1})
                assert result.structured_content == {"result": number + 1}
            result = await client.call_tool("countdown", {"seconds": 1}, progress_callback=report)
    assert result.structured_content == {"seconds": 1}
    assert reports == [0, 1]
    assert min(front.counts) >= 3


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
@pytest.mark.anyio
async def test_calls_and_streams_finish_after_sigterm_and_the_process_exits_with_0(tmp_path, modern):
    with serving(tmp_path) as served:
        async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
            quiet = asyncio.create_task(http.post(served.url, **countdown(2, progress=False, modern=modern)))
            async with http.stream("POST", served.url, **countdown(2, modern=modern)) as stream:
                lines = stream.aiter_lines()
                first = await anext(line async for line in lines if line.startswith("data: "))
                assert json.loads(first[6:])["params"]["progress"] == 0
                served.terminate()
                events = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
            answer = (await quiet).json()
        assert served.ended() == 0
    assert events[-1]["result"]["structuredContent"] == {"seconds": 2}
    assert answer["result"]["structuredContent"] == {"seconds": 2}
    with pytest.raises(OSError, match="refused"), socket.socket() as probe:
        probe.connect(("127.0.0.1", served.port))


@pytest.mark.parametrize("modern", [False, True], ids=["legacy", "modern"])
@pytest.mark.anyio
async def test_calls_that_take_too_long_get_an_error_before_the_process_is_killed(tmp_path, modern):
    with serving(tmp_path) as served:
        async with (
            httpx2.AsyncClient(timeout=30, trust_env=False) as http,
            http.stream("POST", served.url, **countdown(60, modern=modern)) as stream,
        ):
            lines = stream.aiter_lines()
            await anext(line async for line in lines if line.startswith("data: "))
            served.terminate()
            events = [json.loads(line[6:]) async for line in lines if line.startswith("data: ")]
        assert served.ended(10) == 0
    assert events[-1]["error"]["code"] == -32000
    assert "Call again" in events[-1]["error"]["message"]
    assert "did not finish within 8 s" in served.log.read_text()


@pytest.mark.anyio
async def test_a_thread_that_never_returns_does_not_prevent_exit(tmp_path):
    program = tmp_path / "blocking.py"
    program.write_text(
        "import sys, threading\n"
        "from mcpfleet_server.hosting import serve\n"
        "def build(settings):\n"
        "    from mcp.server.mcpserver import MCPServer\n"
        "    server = MCPServer('blocking')\n"
        "    @server.tool()\n"
        "    def forever() -> str:\n"
        "        threading.Event().wait()\n"
        "        return ''\n"
        "    return server\n"
        "sys.exit(serve(build))\n"
    )
    argv = [sys.executable, str(program)]
    with serving(tmp_path, argv=argv, PYTHONPATH=str(ROOT)) as served:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "forever", "arguments": {}}}
        async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:
            pending = asyncio.create_task(http.post(served.url, headers=LEGACY, json=call))
            await asyncio.sleep(0.5)
            served.terminate()
            answer = (await pending).json()
        assert served.ended(10) == 0
    assert answer["error"]["code"] == -32000


@pytest.mark.anyio
async def test_several_processes_serve_on_one_port_and_exit_together(tmp_path):
    with serving(tmp_path, MCP_WORKERS="2") as served:
        async with Client(served.url, mode="auto") as client:
            for _ in range(4):
                assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}
        served.terminate()
        assert served.ended() == 0
    assert "Serving with 2 processes" in served.log.read_text()


@pytest.mark.anyio
async def test_the_legacy_transport_serves_calls_and_exits_at_sigterm(tmp_path):
    with serving(tmp_path, MCP_TRANSPORTS="streamable-http,sse") as served:
        async with Client(sse_client(f"{served.base}/sse"), mode="legacy") as client:
            assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"result": 3}
            served.terminate()
            assert await asyncio.to_thread(served.ended) == 0


def test_an_invalid_environment_exits_with_2_and_a_line_per_mistake(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mcp_server"],
        env={"PATH": "/usr/bin:/bin", "PORT": "x", "MCP_TOOL_TIMEOUT": "search=soon"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert [json.loads(line)["severity"] for line in done.stdout.splitlines()] == ["CRITICAL"] * 2
    assert "Traceback" not in done.stdout + done.stderr


def test_modules_that_no_request_needs_are_not_imported():
    program = (
        "import sys\n"
        "from mcpfleet_server.hosting import runner\n"
        "runner._run = lambda *all: 0\n"
        "import mcp_server.__main__ as program\n"
        "assert runner.serve(program.build) == 0\n"
        "late = ('opentelemetry.sdk', 'opentelemetry.exporter', 'jwt', 'cryptography', 'httpx2', 'mcp.client')\n"
        "assert not [name for name in sys.modules if name.startswith(late)]\n"
        "import gc, pydantic\n"
        "gc.unfreeze()\n"
        "adapters = [one for one in gc.get_objects() if isinstance(one, pydantic.TypeAdapter)]\n"
        "assert sum(not one.pydantic_complete for one in adapters) >= 10\n"
        "assert all(one.rebuild() is not False for one in adapters)\n"
        "import mcp\n"
        "from mcp import Client, stdio_client\n"
        "from mcp.client.client import Client as itself\n"
        "assert mcp.Client is Client is itself\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "PORT": str(free_port()), "MCP_WORKERS": "1"}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, timeout=60)


@pytest.mark.anyio
async def test_a_request_state_is_accepted_back_and_a_forged_one_refused(tmp_path):
    """Runs in a process, since only there the SDK is imported without its ciphers."""
    params = {
        "name": "order_tea",
        "arguments": {"kind": "mint"},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        },
    }
    headers = {**HEADERS, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "order_tea"}
    with serving(tmp_path) as served:
        async with httpx2.AsyncClient(timeout=30, trust_env=False) as http:

            async def call(**more):
                body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {**params, **more}}
                return (await http.post(served.url, headers=headers, json=body)).json()

            asked = (await call())["result"]
            state = asked["requestState"]
            (question,) = asked["inputRequests"]
            answers = {question: {"action": "accept", "content": {"cups": 2, "milk": True}}}
            forged = await call(inputResponses=answers, requestState=state[:-4] + "AAAA")
            answer = await call(inputResponses=answers, requestState=state)
    assert answer["result"]["structuredContent"] == {"kind": "mint", "cups": 2, "milk": True}
    assert forged["error"]["message"] == "Invalid or expired requestState"
