"""Tests each framework's class for Gemini with a fake of Gemini's API, without a network.

The fake has two fixed responses, so the tests don't show how well a model chooses tools. They show that the tools of an
MCP server reach Gemini as valid declarations, that Gemini's call reaches the tool, and that the result reaches Gemini.
"""

import contextlib
import datetime
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import google.auth
import google.auth.credentials
import httpx2
import pytest
from agent import MODEL, Agent
from mcp.server.mcpserver import MCPServer

from mcpfleet.service import CalledServer, HttpClients

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Account(google.auth.credentials.Credentials):
    """The service's account for google-auth."""

    def refresh(self, request):
        self.token = "an access token"
        self.expiry = datetime.datetime.now(datetime.UTC).replace(tzinfo=None) + datetime.timedelta(hours=1)


class FakeGemini(BaseHTTPRequestHandler):
    """A fake Gemini that calls `one_add`, and then answers with the result."""

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(request)
        last = request["contents"][-1]["parts"][-1]
        if "functionResponse" in last:
            part = {"text": f"It is {json.dumps(last['functionResponse']['response'])}."}
        else:
            part = {"functionCall": {"name": "one_add", "args": {"a": 1, "b": 2}}}
        candidate = {"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}
        usage = {"promptTokenCount": 1, "candidatesTokenCount": 1, "totalTokenCount": 2}
        body = json.dumps({"candidates": [candidate], "usageMetadata": usage}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Log nothing."""


@pytest.fixture
def gemini(monkeypatch):
    """The requests that the fake Gemini gets."""
    with ThreadingHTTPServer(("127.0.0.1", 0), FakeGemini) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/"
        for name, value in {
            "GOOGLE_VERTEX_BASE_URL": url,
            "GOOGLE_GEMINI_BASE_URL": url,
            "GOOGLE_GENAI_USE_VERTEXAI": "true",
            "GOOGLE_CLOUD_PROJECT": "acme",
            "GOOGLE_CLOUD_LOCATION": "global",
            "GOOGLE_API_USE_CLIENT_CERTIFICATE": "false",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(google.auth, "default", lambda *_, **__: (Account(), "acme"))
        yield server.asked
        server.shutdown()
        thread.join(10)


async def test_gemini_is_told_the_servers_tools_and_what_its_call_came_to(gemini):
    server = MCPServer("one")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    async with contextlib.AsyncExitStack() as stack:
        app = server.streamable_http_app(stateless_http=True, json_response=True, host="0.0.0.0")  # noqa: S104
        await stack.enter_async_context(server.session_manager.run())
        called_server = CalledServer(url="http://localhost:8081/mcp")
        agent = Agent(
            MODEL, {"one": called_server}, {"one": HttpClients(called_server, pool=httpx2.ASGITransport(app))}, 20
        )
        stack.push_async_callback(agent.aclose)
        answer = await agent.ask("What is 1 + 2?")
    assert answer.startswith("It is ")
    assert "3" in answer
    first, second = gemini
    (declared,) = first["tools"][0]["functionDeclarations"]
    assert declared["name"] == "one_add"
    assert "Add two whole numbers." in declared["description"]
    assert "What is 1 + 2?" in json.dumps(first["contents"])
    assert second["contents"][-1]["parts"][-1]["functionResponse"]["name"] == "one_add"
