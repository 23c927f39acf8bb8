"""Fixtures for the bridge in memory: a fake stdio server, and HTTP through the ASGI application."""

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pytest

from mcpfleet_bridge.edge import Bridge
from mcpfleet_bridge.settings import Settings

META = "io.modelcontextprotocol/"
JSON = "application/json"
STREAM = "text/event-stream"


@pytest.fixture
def anyio_backend():
    return "asyncio"


class FakeServer:
    """A fake stdio server of JSON lines, whose tools do what their names say."""

    capabilities = MappingProxyType({"tools": {"listChanged": True}, "resources": {"subscribe": True}, "logging": {}})

    def __init__(self, name, reader, fleet):
        self.name, self.reader, self.fleet = name, reader, fleet
        self.heard, self.held, self.asked, self.over = [], {}, {}, False
        self.capabilities_of_client = None

    def write(self, line):
        if self.over:
            return False
        assert line.endswith(b"\n"), "one message is one line"
        assert len(line.decode().splitlines()) == 1, "one message is one line, whoever reads it"
        message = json.loads(line)
        self.heard.append(message)
        # As from a pipe: after the call that wrote has returned.
        asyncio.get_running_loop().call_soon(self.act, message)
        return True

    async def stop(self):
        self.end("it was stopped")

    def end(self, reason):
        if not self.over:
            self.over = True
            self.fleet.ended.append(self)
            self.reader.on_exit(reason)

    def say(self, **message):
        if not self.over:
            self.reader.on_line(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def methods(self):
        return [message.get("method") for message in self.heard]

    def act(self, message):
        number, method, params = message.get("id"), message.get("method"), message.get("params", {})
        if method is None:
            self.say(
                id=self.asked.pop(number), result=self.text(json.dumps(message.get("result", message.get("error"))))
            )
        elif method == "initialize":
            self.capabilities_of_client = params["capabilities"]
            self.say(
                id=number,
                result={
                    "protocolVersion": "2025-11-25",
                    "capabilities": dict(self.capabilities),
                    "serverInfo": {"name": "fake", "version": "1"},
                    "instructions": "be nice",
                },
            )
        elif method == "tools/list":
            self.say(id=number, result={"tools": []})
        elif method == "tools/call":
            getattr(self, "tool_" + params["name"].replace("-", "_"), self.tool_unknown)(number, params)
        elif method == "resources/read":
            self.say(id=number, error={"code": -32002, "message": "Resource not found", "data": {"uri": params["uri"]}})
        elif number is not None and method in (
            "ping",
            "resources/subscribe",
            "resources/unsubscribe",
            "logging/setLevel",
        ):
            self.say(id=number, result={})
        elif number is not None:
            self.say(id=number, error={"code": -32601, "message": "Method not found"})

    @staticmethod
    def text(text):
        return {"content": [{"type": "text", "text": text}]}

    def tool_unknown(self, number, params):
        self.say(id=number, error={"code": -32602, "message": f"Unknown tool: {params['name']}"})

    def tool_echo(self, number, params):
        self.say(id=number, result=self.text(params["arguments"]["text"]))

    def tool_raw(self, number, params):
        """Answers with the argument, a byte for each character."""
        self.reader.on_line(params["arguments"]["line"].replace("ID", str(number)).encode("latin-1"))

    def tool_hold(self, number, params):
        """Answer when the test says so."""
        self.held[params["arguments"]["key"]] = number

    def release(self, key, text="released"):
        self.say(id=self.held.pop(key), result=self.text(text))

    def tool_steps(self, number, params):
        for step in range(params["arguments"]["count"]):
            self.say(
                method="notifications/progress",
                params={"progressToken": params["_meta"]["progressToken"], "progress": step},
            )
        self.say(id=number, result=self.text("done"))

    def tool_ask(self, number, params):
        """Send a request to the client, and answer with its response."""
        identity = f"ask-{number}"
        self.asked[identity] = number
        self.say(id=identity, method=params["arguments"]["method"], params={"message": "well?"})

    def tool_log(self, number, params):
        self.say(method="notifications/message", params={"level": "info", "data": params["arguments"]["text"]})
        self.say(id=number, result=self.text("logged"))

    def tool_crash(self, number, params):
        self.end("it exited with code 3")


@dataclass
class Fleet:
    """All started servers, and the outcomes of the next starts."""

    settings: Settings
    started: list[FakeServer] = field(default_factory=list)
    ended: list[FakeServer] = field(default_factory=list)
    failures: int = 0
    server: type[FakeServer] = FakeServer

    async def start(self, reader):
        if self.failures > 0:
            self.failures -= 1
            raise FileNotFoundError(2, "No such file or directory", "no-such-server")
        server = self.server(str(len(self.started) + 1), reader, self)
        self.started.append(server)
        return server

    @property
    def alive(self):
        return [server for server in self.started if not server.over]


@dataclass
class Answer:
    """An HTTP response."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def messages(self) -> list[Any]:
        """The messages in the body, JSON or events."""
        if self.headers.get("content-type") == STREAM:
            events = [block for block in self.body.decode().split("\r\n\r\n") if "data: {" in block]
            return [json.loads(block.partition("data: ")[2]) for block in events]
        return [json.loads(self.body)] if self.body else []

    @property
    def last(self) -> Any:
        return self.messages[-1]


class Http:
    """A client of the bridge, without a socket."""

    def __init__(self, bridge, fleet):
        self.bridge, self.fleet = bridge, fleet

    def request(self, method="POST", path="/mcp", headers=None, body=b"", query=b""):
        """Begin a request; `request.answer` fills, `await request` waits, `request.vanish()` hangs up."""
        return Request(self.bridge, method, path, headers or {}, body, query)

    async def post(self, message, headers=None, **options):
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return await self.request(body=body, headers=self.headers(headers), **options)

    def begin(self, message, headers=None, **options):
        return self.request(body=json.dumps(message).encode(), headers=self.headers(headers), **options)

    @staticmethod
    def headers(more=None):
        return {"content-type": JSON, "accept": f"{JSON}, {STREAM}", **(more or {})}

    @staticmethod
    def call(tool, identity=1, meta=None, **arguments):
        params = {"name": tool, "arguments": arguments} | ({} if meta is None else {"_meta": meta})
        return {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}

    @staticmethod
    def modern(method="tools/call", identity=1, capabilities=None, meta=None, headers=None, **params):
        """Message and headers of a request of 2026-07-28."""
        envelope = {
            f"{META}protocolVersion": "2026-07-28",
            f"{META}clientCapabilities": capabilities or {},
            f"{META}clientInfo": {"name": "test", "version": "1"},
            **(meta or {}),
        }
        message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": {**params, "_meta": envelope}}
        name = params.get("name", params.get("uri"))
        return message, {
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": method,
            **({} if name is None else {"mcp-name": name}),
            **(headers or {}),
        }


class Request:
    def __init__(self, bridge, method, path, headers, body, query):
        self.answer = Answer()
        self._to = asyncio.Queue()
        self._to.put_nowait({"type": "http.request", "body": body, "more_body": False})
        raw = [(b"host", b"127.0.0.1:8080")]
        pairs = headers if isinstance(headers, list) else list(headers.items())
        names = {name.lower() for name, _ in pairs}
        raw = [] if "host" in names else raw
        raw += [(name.lower().encode(), value.encode("latin-1")) for name, value in pairs]
        scope = {"type": "http", "method": method, "path": path, "headers": raw, "query_string": query}
        self.task = asyncio.ensure_future(bridge(scope, self._to.get, self._send))

    async def _send(self, message):
        if message["type"] == "http.response.start":
            self.answer.status = message["status"]
            self.answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer.body += message.get("body", b"")
            self.answer.ended = not message.get("more_body", False)

    def vanish(self):
        self._to.put_nowait({"type": "http.disconnect"})

    def __await__(self):
        return self._finish().__await__()

    async def _finish(self):
        await asyncio.wait_for(self.task, 10)
        return self.answer


async def settle():
    """Let everything that can happen now happen."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.fixture
def wait_until():
    """`await wait_until(condition)`: run the event loop until the condition is true, within the test's time limit."""

    async def wait_until(condition):
        while not condition():  # noqa: ASYNC110  # what is waited for is a list that fills, not an event
            await asyncio.sleep(0)

    return wait_until


@pytest.fixture
def fake_server():
    return FakeServer


@pytest.fixture
def bridging():
    """`async with bridging(pool=2) as http`: the bridge over fake servers."""

    @asynccontextmanager
    async def bridging(server=FakeServer, failures=0, **options):
        settings = Settings(command=("fake",), **options)
        fleet = Fleet(settings, failures=failures, server=server)
        bridge = Bridge(settings, fleet.start)
        await bridge.start()
        await settle()
        try:
            yield Http(bridge, fleet)
        finally:
            await asyncio.wait_for(bridge.close(), 10)
            assert fleet.alive == [], "a process was left behind"

    return bridging
