"""Request targets at the local proxy: paths are forwarded, all other forms are refused."""

import asyncio

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.proxy import Proxy
from mcpfleet.target import Target
from mcpfleet.tokens import IdToken

SERVICE = "https://echo.run.app"
BOUND = 10  # seconds; only a broken build waits this long


class Fixed:
    """An identity whose token never ends."""

    issues_fresh_tokens, name = False, "a test"

    def fetch(self, audience):
        return IdToken("a.b.c", 2**40, "user:ada@acme.dev", audience)


class Empty(httpx2.AsyncByteStream):
    async def __aiter__(self):
        yield b""


class Wire(httpx2.AsyncBaseTransport):
    """Notes what goes out."""

    def __init__(self):
        self.requests = []

    async def handle_async_request(self, request):
        self.requests.append((request.url.host, request.extensions["target"]))
        return httpx2.Response(200, stream=Empty())


async def asked(method, path, query=b""):
    """The status of the answer, and what went out."""
    wire, sent = Wire(), []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": [(b"host", b"127.0.0.1:3000")],
    }
    tokens = IdTokens(Fixed(), SERVICE, start=lambda work: work())
    proxy = Proxy(Target.parse(SERVICE), IdTokenAuth(SERVICE, tokens=tokens), transport=wire)
    await asyncio.wait_for(proxy(scope, receive, send), BOUND)
    return sent[0]["status"], wire.requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("CONNECT", b"evil.dev:443", 405),
        ("OPTIONS", b"*", 400),
        ("GET", b"http://evil.dev/mcp", 400),
        ("GET", b"mcp", 400),
        ("GET", b"/x#y", 400),
        ("GET", b"/" + b"x" * 70_000, 400),
    ],
)
@pytest.mark.anyio
async def test_an_invalid_request_target_is_refused_and_not_sent(method, path, status):
    assert await asked(method, path) == (status, [])


@pytest.mark.parametrize("path", [b"/mcp", b"/", b"//evil.dev/x", b"/a%0d%0ab", b"/%zz", b"/../..", b"/mcp/"])
@pytest.mark.anyio
async def test_every_path_is_sent_to_the_service_unchanged(path):
    assert await asked("GET", path, b"a=1") == (200, [("echo.run.app", path + b"?a=1")])


@settings(max_examples=150, derandomize=True)
@given(st.sampled_from(["GET", "POST", "CONNECT", "OPTIONS", "TRACE"]), st.binary(max_size=30), st.binary(max_size=10))
def test_no_request_target_reaches_another_host_or_raises(method, path, query):
    status, out = asyncio.run(asked(method, path, query))
    assert status in (200, 400, 405)
    assert {host for host, _ in out} <= {"echo.run.app"}
