"""The bridge with real processes: limits, graceful shutdown, endurance, and no process left behind."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import httpx2
import mcp_types
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client

from devtools.bench import hostile
from devtools.bench.soak import descendants, footprint, soak

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, str(ROOT / "devtools" / "bench" / "stdio_server.py")]
JSON = {"content-type": "application/json", "accept": "application/json, text/event-stream"}

META = {"protocolVersion": "2026-07-28", "clientCapabilities": {}}

# Speaks MCP in a few lines, so that a test starts it in no time and can make it do what no SDK would.
RAW = textwrap.dedent(
    """
    import json, os, subprocess, sys, time
    def say(**message): print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)
    for line in sys.stdin:
        message = json.loads(line)
        number, method = message.get("id"), message.get("method")
        if method == "initialize":
            say(id=number, result={"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                                   "serverInfo": {"name": "raw", "version": "1"}})
        elif method == "tools/call":
            arguments = message["params"]["arguments"]
            try:
                text = str(eval(arguments["python"]))
            except MemoryError:
                text = "MemoryError"
            say(id=number, result={"content": [{"type": "text", "text": text}]})
    """
)


class Running:
    """A bridge in a process of its own."""

    def __init__(self, tmp_path, command, **variables):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = tmp_path / f"bridge-{port}.log"
        names = {f"MCP_STDIO_{name}": str(value) for name, value in variables.items() if name.isupper()}
        environment = {"PATH": os.environ["PATH"], "PORT": str(port), "MCP_STDIO_COMMAND": json.dumps(command), **names}
        environment |= variables.get("environment", {})
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mcpfleet_bridge"], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def until(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx2.HTTPError):
                if condition():
                    return
            time.sleep(0.02)
        raise AssertionError(f"it did not come to that:\n{self.log.read_text()[-3000:]}")

    def healthy(self):
        return httpx2.get(f"{self.url}/health", trust_env=False).status_code == 200

    def call(self, tool, **arguments):
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
        return httpx2.post(f"{self.url}/mcp", json=message, headers=JSON, trust_env=False, timeout=60).json()

    def python(self, expression):
        answer = self.call("eval", python=expression)
        return answer["result"]["content"][0]["text"] if "result" in answer else answer["error"]["message"]

    def entries(self):
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def bridge(tmp_path):
    running = []

    def bridge(command, **variables):
        one = Running(tmp_path, command, **variables)
        running.append(one)
        return one

    yield bridge
    for one in running:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait(10)


@pytest.fixture
def raw(bridge, tmp_path):
    program = tmp_path / "raw.py"
    program.write_text(RAW)

    def raw(**variables):
        one = bridge([sys.executable, str(program)], **variables)
        one.until(one.healthy)
        return one

    return raw


def test_a_call_in_flight_at_sigterm_finishes_and_no_process_remains(bridge):
    one = bridge(BENCH)
    one.until(one.healthy)
    (child,) = descendants(one.process.pid)

    async def run():
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as http:
            params = {"name": "slow", "arguments": {"seconds": 2, "text": "done"}}
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            call = asyncio.create_task(http.post(f"{one.url}/mcp", json=message, headers=JSON))
            await asyncio.sleep(0.5)
            one.process.send_signal(signal.SIGTERM)
            return (await call).json()

    began = time.monotonic()
    assert asyncio.run(run())["result"]["content"][0]["text"] == "done"
    assert one.process.wait(10) == 0
    assert time.monotonic() - began < 10
    assert not Path(f"/proc/{child}").exists()


def test_a_call_that_never_ends_is_cancelled_before_cloud_run_kills_the_bridge(bridge):
    one = bridge(BENCH)
    one.until(one.healthy)
    message = {"name": "slow", "arguments": {"seconds": 60}}
    text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": message})

    async def run():
        reader, writer = await asyncio.open_connection("127.0.0.1", int(one.url.rpartition(":")[2]))
        writer.write(
            f"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            f"content-length: {len(text)}\r\n\r\n{text}".encode()
        )
        await writer.drain()
        await asyncio.sleep(0.3)
        began = time.monotonic()
        one.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(one.process.wait, 15)
        writer.close()
        del reader
        return time.monotonic() - began

    assert asyncio.run(run()) < 10


def test_processes_started_by_a_server_end_with_it_even_outside_its_group(raw):
    one = raw()
    sleeper = "__import__('subprocess').Popen(['sleep', '300'], start_new_session={}).pid"
    pids = [int(one.python(sleeper.format(apart))) for apart in (False, True)]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    assert "exited with code 5" in one.python("os._exit(5)")
    one.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    one.until(lambda: one.python("1 + 1") == "2")
    assert len(descendants(one.process.pid)) == 1, "no zombie stays"


def test_a_server_that_ignores_end_of_input_and_sigterm_is_killed(raw):
    one = raw()
    one.python("__import__('signal').signal(15, 1)")
    one.python("exec('import threading; threading.Thread(target=time.sleep, args=(300,)).start()')")
    (child,) = descendants(one.process.pid)
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(10) == 0
    assert not Path(f"/proc/{child}").exists()


def test_a_server_that_closes_its_input_is_replaced_and_its_calls_are_answered(raw):
    one = raw()
    (child,) = descendants(one.process.pid)
    assert one.python("os.close(0)") == "None"
    one.until(lambda: one.python("1 + 1") == "2" and child not in descendants(one.process.pid))


def test_calls_to_a_server_that_keeps_crashing_fail_with_the_reason(bridge):
    one = bridge([sys.executable, str(ROOT / "devtools" / "bench" / "soak_server.py")], POOL=2)
    one.until(one.healthy)
    result = asyncio.run(soak(f"{one.url}/mcp", calls=3000, crash_every=20, hang_up_count=10))
    assert result.wrong == []
    assert result.answered + result.vanished + sum(result.failures.values()) == 3000
    # Each of 150 crashes fails what is under way in its process: of sixteen calls at most those.
    assert result.answered > 1500


def test_resource_limits_are_set_before_the_server_starts(raw):
    one = raw(MEMORY=300, OPEN_FILES=64)
    assert one.python("__import__('resource').getrlimit(7)") == "(64, 64)"
    assert one.python("__import__('resource').getrlimit(4)") == "(0, 0)"
    assert one.python("len(bytearray(400 * 2**20))") == "MemoryError"
    assert one.python("len(bytearray(50 * 2**20))") == str(50 * 2**20)


def test_a_server_inherits_its_own_variables_and_no_descriptor_of_the_bridge(raw):
    one = raw(environment={"API_KEY": "s3cret"})
    assert one.python("os.environ['API_KEY']") == "s3cret"
    assert one.python("[name for name in os.environ if name.startswith('MCP_STDIO_') or name == 'PORT']") == (
        "['MCP_STDIO_PROCESS']"
    )
    assert one.python("sorted(map(int, os.listdir('/proc/self/fd')))[:4]") in ("[0, 1, 2, 3]", "[0, 1, 2]")
    assert "s3cret" not in one.log.read_text()


def test_stderr_becomes_log_entries_and_excess_lines_are_counted(raw):
    one = raw()
    one.python("print('ERROR: it is late', file=sys.stderr, flush=True)")
    one.until(lambda: any(entry["message"] == "ERROR: it is late" for entry in one.entries()))
    entry = next(entry for entry in one.entries() if entry["message"] == "ERROR: it is late")
    assert entry["severity"] == "DEFAULT"
    assert entry["logging.googleapis.com/labels"]["logger"] == "mcpfleet_bridge.server"
    one.python("[print('line', number, file=sys.stderr) for number in range(20000)] and None")
    one.python("time.sleep(1.1) or print('after', file=sys.stderr, flush=True)")
    one.until(lambda: any(entry["message"] == "after" for entry in one.entries()))
    assert len(one.entries()) < 2000
    assert any("more lines of stderr" in entry["message"] for entry in one.entries())


def test_a_message_that_is_too_long_fails_only_its_own_call(raw):
    one = raw(MAX_ANSWER=100_000)
    assert "longer than MCP_STDIO_MAX_ANSWER" in one.python("'x' * 200_000")
    assert len(one.python("'x' * 90_000")) == 90_000


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n"])
def test_injected_lines_are_not_executed_and_each_caller_gets_its_own_answer(raw, tmp_path, modern, end):
    """The server reads lines as Python does, so that a carriage return ends one, too."""
    one, obeyed = raw(), tmp_path / "obeyed"
    plant = {"name": "eval", "arguments": {"python": f"open({str(obeyed)!r}, 'a').write('x')"}}
    planted = [
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": plant}),
        json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": []}}),
    ]
    meta = {f"io.modelcontextprotocol/{name}": value for name, value in META.items()} if modern else {}
    headers = {**JSON, "mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": "eval"}

    async def call(client, number):
        lines = [json.dumps(number), *planted]
        said = f",{end}".join(f'"{name}":{end}{line}{end}' for name, line in zip("xyz", lines, strict=True))
        arguments = f'{{{said},"python":{end}"{number} + 0"}}'
        params = f'{{"name":"eval",{end}"arguments":{arguments},"_meta":{end}{json.dumps(meta)}}}'
        body = f'{{"jsonrpc":"2.0",{end}"id":1,"method":"tools/call","params":{end}{params}}}{end}'
        answer = await client.post(f"{one.url}/mcp", content=body, headers=headers if modern else JSON)
        return answer.json()["result"]["content"][0]["text"]

    async def everybody():
        async with httpx2.AsyncClient(trust_env=False, timeout=30) as client:
            return await asyncio.gather(*(call(client, number) for number in range(100)))

    assert asyncio.run(everybody()) == [str(number) for number in range(100)]
    assert not obeyed.exists()


def test_a_bridge_whose_server_cannot_start_exits_at_once_with_the_reason(bridge):
    one = bridge(["no-such-program"])
    assert one.process.wait(10) == 1
    said = [entry for entry in one.entries() if entry["severity"] == "CRITICAL"]
    assert "no-such-program" in said[0]["message"]


def test_an_invalid_environment_variable_is_one_line_and_exit_code_2(bridge):
    one = bridge([])
    assert one.process.wait(10) == 2
    (entry,) = one.entries()
    assert entry["message"].startswith("MCP_STDIO_COMMAND: give the program")


def test_one_process_serves_the_official_client_of_both_protocol_versions(bridge):
    one = bridge(BENCH)
    one.until(one.healthy)

    async def run(mode):
        seen = []

        async def progress(now, total, message):
            seen.append(now)

        async with (
            httpx2.AsyncClient(timeout=60, trust_env=False) as http,
            Client(streamable_http_client(f"{one.url}/mcp", http_client=http), mode=mode) as client,
        ):
            await client.list_tools()
            await client.call_tool("steps", {"count": 3}, progress_callback=progress)
            result = await client.call_tool("pid", {})
            return seen, result.structured_content["result"]

    outcomes = [asyncio.run(run(mode)) for mode in ("2026-07-28", "legacy", "2026-07-28")]
    assert [seen for seen, _ in outcomes] == [[0, 1, 2]] * 3
    assert len({pid for _, pid in outcomes}) == 1


@pytest.mark.parametrize(("mode", "stateless"), [("2026-07-28", "true"), ("legacy", "false")])
def test_a_servers_request_is_answered_by_the_client_whose_call_caused_it(bridge, tmp_path, mode, stateless):
    program = tmp_path / "asking.py"
    program.write_text(
        textwrap.dedent(
            """
            from mcp.server.mcpserver import Context, MCPServer
            from pydantic import BaseModel
            class Name(BaseModel):
                name: str
            server = MCPServer("asking", log_level="WARNING")
            @server.tool()
            async def greet(ctx: Context) -> str:
                answer = await ctx.elicit("Who are you?", Name)
                return f"Hello {answer.data.name}"
            server.run("stdio")
            """
        )
    )
    one = bridge([sys.executable, str(program)], environment={"MCP_STATELESS": stateless})
    one.until(one.healthy)

    async def greet(name):
        async def answer(context, params):
            assert params.message == "Who are you?"
            return mcp_types.ElicitResult(action="accept", content={"name": name})

        async with (
            httpx2.AsyncClient(timeout=60, trust_env=False) as http,
            Client(
                streamable_http_client(f"{one.url}/mcp", http_client=http), mode=mode, elicitation_callback=answer
            ) as client,
        ):
            await client.list_tools()
            return (await client.call_tool("greet", {})).structured_content["result"]

    async def run():
        return await asyncio.gather(greet("Ada"), greet("Grace"))

    assert asyncio.run(run()) == ["Hello Ada", "Hello Grace"]


def test_a_soak_leaks_no_process_or_descriptor_and_mixes_up_no_answers(raw, bridge):
    one = bridge(BENCH, POOL=2)
    one.until(one.healthy)
    asyncio.run(soak(f"{one.url}/mcp", calls=300, hang_up_count=0, crash_every=10**9))
    one.until(lambda: footprint(one.process.pid).children == 2)
    before = footprint(one.process.pid)
    result = asyncio.run(soak(f"{one.url}/mcp", calls=2000, hang_up_count=10))
    assert result.wrong == []
    assert result.answered + sum(result.failures.values()) + result.vanished == result.calls == 2000
    assert sum(result.failures.values()) >= 19
    one.until(lambda: one.healthy() and footprint(one.process.pid).children == 2)
    after = footprint(one.process.pid)
    assert after.descriptors <= before.descriptors
    assert after.memory - before.memory < 8 * 1024


@pytest.mark.parametrize("sessions", [False, True])
def test_no_framing_lets_a_caller_read_answers_or_cancel_calls_of_another(bridge, tmp_path, sessions):
    notes = tmp_path / "notes"
    variables = {**(hostile.SESSIONS if sessions else hostile.ENVIRONMENT), "HOSTILE_NOTES": str(notes)}
    one = bridge([sys.executable, str(ROOT / "devtools" / "bench" / "hostile_server.py")], environment=variables)
    one.until(one.healthy)
    outcome = hostile.attack(f"{one.url}/mcp", notes, 1500, sessions=sessions)
    assert outcome.faults() == []
    assert outcome.answered > 1000
    assert outcome.refused["what is another's"] > 10
