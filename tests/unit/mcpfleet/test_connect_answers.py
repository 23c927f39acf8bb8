"""A client of `mcpfleet connect` gets one valid reply to each request, whatever the server responds."""

import asyncio
import itertools
import json

import httpx2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mcp_types.jsonrpc import JSONRPCError, JSONRPCResponse, jsonrpc_message_adapter

from mcpfleet import relay
from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.relay import Relay
from mcpfleet.target import Target
from mcpfleet.tokens import IdToken
from mcpfleet.upstream import Upstream

BOUND = 10  # seconds; only a broken build waits this long
ORIGIN = "https://mcp-echo-481516.europe-west1.run.app"
JSON, SSE, HTML, TEXT = "application/json", "text/event-stream", "text/html; charset=UTF-8", "text/plain"
META = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
TOP = {"jsonrpc", "id", "result", "error"}


class Held:
    """An identity that has one token."""

    name = "test login"

    def fetch(self, _audience):
        return IdToken("a.b.c", expires_at=1e9)


class Pieces(httpx2.AsyncByteStream):
    """A body in pieces of a length; its end may be an error."""

    def __init__(self, body, length=1 << 20, end=None):
        self.body, self.length, self.end = body, length, end

    async def __aiter__(self):
        for offset in range(0, len(self.body), self.length):
            yield self.body[offset : offset + self.length]
        if self.end is not None:
            raise self.end("it broke off")


class Scripted(httpx2.AsyncBaseTransport):
    """Gives answers in turn, again and again; an error among them is raised instead of an answer."""

    def __init__(self, *answers, first=()):
        self.first, self.answers = list(first), itertools.cycle(answers)

    async def handle_async_request(self, request):
        answer = self.first.pop(0) if self.first else next(self.answers)
        if isinstance(answer, type):
            raise answer("no answer", request=request)
        status, headers, *body = answer
        return httpx2.Response(status, headers=headers, stream=Pieces(*body), request=request)


def strictly(constant):
    raise ValueError(f"{constant} is not valid JSON")


def run_relay(requests, transport, *, opening=()):
    """All lines that a client gets: for its *opening* messages, one after the other, and for concurrent *requests*."""
    lines = []

    async def run():
        moment = [0.0]

        async def sleep(seconds):
            moment[0] += seconds
            await asyncio.sleep(0)

        now = lambda: moment[0]  # noqa: E731
        auth = IdTokenAuth(ORIGIN, tokens=IdTokens(Held(), ORIGIN, clock=now, start=lambda work: work()))
        upstream = Upstream(Target.parse(f"{ORIGIN}/mcp"), auth, transport=transport, wall=now, clock=now)
        answered = asyncio.Semaphore(0)

        def emit(line):
            lines.append(line)
            if b'"method"' not in line:
                answered.release()

        one = Relay(upstream, emit, sleep=sleep, clock=now)
        async with asyncio.timeout(BOUND):
            for message in opening:
                await one.handle_line(json.dumps(message).encode())
                if "id" in message:
                    await answered.acquire()
            for request in requests:
                await one.handle_line(json.dumps(request).encode())
            for _ in requests:
                await answered.acquire()
            await one.aclose(BOUND)

    asyncio.run(run())
    return lines


def alike(request, status, kind, body):
    """The lines for one request to a server that answers each alike."""
    return run_relay([request], Scripted((status, {"content-type": kind} if kind else {}, body)))


def replies_to(lines, *requests):
    """The replies among the lines, each parsed as strictly as a client may do."""
    replies = []
    for line in lines:
        assert line.decode().splitlines() == [line.decode()]
        message = json.loads(line, parse_constant=strictly)
        read = jsonrpc_message_adapter.validate_json(line)
        if isinstance(read, JSONRPCResponse | JSONRPCError):
            assert message.keys() <= TOP, "a client may refuse what it does not know"
            assert ("result" in message) != ("error" in message)
            assert json.dumps(message["id"]) in [json.dumps(request["id"]) for request in requests]
            replies.append(message)
    return replies


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
ids = st.sampled_from([1, 1, 1, "1", 2, True, 1.0, None])
codes = st.sampled_from([-32602, "x", None, 1.5, True])
errors = st.none() | st.fixed_dictionaries({}, optional={"code": codes, "message": values, "data": values}) | values
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "2.0", "1.0", 2, None]),
        "id": ids,
        "result": st.just({}) | values,
        "error": errors,
        "method": st.sampled_from(["notifications/progress", "ping", 1, None]),
        "params": values,
        "detail": values,
    },
)
texts = messages.map(json.dumps) | values.map(json.dumps) | st.lists(messages, max_size=2).map(json.dumps)
streams = st.lists(texts, max_size=3).map(lambda parts: "".join(f"data: {part}\n\n" for part in parts))
bodies = st.one_of(texts.map(str.encode), streams.map(str.encode), texts.map(lambda text: text.encode("utf-16")))
bodies = bodies | st.sampled_from([b"", b"<html>", b"\xff\xfe", b"{", b"null", b"[" * 5000]) | st.binary(max_size=20)
kinds = st.sampled_from(
    [JSON, SSE, HTML, TEXT, "", "Application/JSON", "Text/Event-Stream", "application/problem+json"]
)
statuses = st.sampled_from([200, 200, 200, 201, 202, 204, 206, 299, 304, 307, 399]) | st.integers(200, 599)
methods = st.sampled_from(
    ["tools/call", "tools/list", "initialize", "server/discover", "subscriptions/listen", "acme/x"]
)


def request_of(method, *, modern):
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"name": "add", **(META if modern else {})}}


RESULT = b'{"jsonrpc":"2.0","id":1,"result":{}'


@given(methods, st.booleans(), statuses, kinds, bodies)
@example("tools/call", True, 200, JSON, RESULT + b',"error":null}')
@example("tools/call", True, 401, JSON, b'{"error":"invalid_token","error_description":"expired"}')
@example("tools/call", True, 200, JSON, b'{"id":1,"result":{}}')
@example("tools/call", True, 200, JSON, b'{"jsonrpc":"2.0","id":1,"result":[]}')
@example("tools/call", True, 200, JSON, b'{"jsonrpc":"2.0","id":1,"result":{"x":NaN}}')
@example("tools/call", True, 200, JSON, b'{"jsonrpc":"2.0","id":2,"result":{"x":1e999}}')
@example("tools/call", True, 200, JSON, b'{"jsonrpc":"2.0","id":true,"result":{}}')
@example("tools/call", True, 200, JSON, RESULT + b',"detail":1}')
@example("tools/call", True, 200, SSE, b"data: " + RESULT + b"}\n\ndata: " + RESULT + b"}\n\n")
@example("tools/call", True, 200, SSE, b'data: {"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}\n\n')
@example("tools/call", True, 200, SSE, b'data: {"jsonrpc":"2.0","id":2,"result":{}}\n\n')
@example("tools/call", True, 200, "Text/Event-Stream", b"data: " + RESULT + b"}\n\n")
@example("initialize", False, 200, JSON, RESULT + b',"error":{"code":1,"message":"x"}}')
@example("tools/call", True, 200, JSON, b'{"jsonrpc":"2.0","id":1,"error":{"code":"x","message":null}}')
@example("tools/call", True, 202, "", b"")
def test_a_request_gets_one_well_formed_answer_for_any_http_response(method, modern, status, kind, body):
    request = request_of(method, modern=modern)
    lines = alike(request, status, kind, body)
    assert len(replies_to(lines, request)) == 1


cuts = st.sampled_from([None, None, httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ReadTimeout])
names = st.sampled_from([b"", b"id: 7\n", b"id: 8\nretry: 1\n", b": x\n\n"])
spoken = st.tuples(names, bodies).map(b"".join)
headers = st.fixed_dictionaries(
    {"content-type": kinds},
    optional={
        "content-encoding": st.sampled_from(["gzip", "identity", "br"]),
        "location": st.sampled_from(["https://accounts.google.com/x", "/mcp/", "http://[", "\x7f"]),
        "mcp-session-id": st.sampled_from(["s2", "s3", ""]),
        "retry-after": st.sampled_from(["1", "-1", "soon", "9" * 40]),
        "www-authenticate": st.sampled_from(['Bearer error="invalid_token"', 'Bearer resource_metadata="https://x"']),
        "x-goog-iap-generated-response": st.just("true"),
    },
)
answers = st.tuples(statuses, headers, spoken, st.integers(1, 40), cuts)
troubles = st.sampled_from([httpx2.ConnectError, httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.ReadTimeout])
OPENED = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": {}}
OPENING = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25"}}


@given(
    st.lists(answers | troubles, min_size=1, max_size=4),
    st.lists(methods, min_size=1, max_size=4),
    st.sampled_from(["modern", "legacy", "session"]),
)
@settings(deadline=None)
def test_every_concurrent_request_is_answered_once_despite_broken_responses(script, asked, version):
    requests = [
        {**request_of(method, modern=version == "modern"), "id": ident}
        for ident, method in zip([1, "1", 2, "x"], asked, strict=False)
    ]
    opening, first = [], []
    if version != "modern":
        opening = [OPENING, {"jsonrpc": "2.0", "method": "notifications/initialized"}]
        session = {"mcp-session-id": "s1"} if version == "session" else {}
        body = json.dumps({"jsonrpc": "2.0", "id": 0, "result": OPENED}).encode()
        first = [(200, {"content-type": JSON, **session}, body), (202, {}, b"")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "MAX_RESUMES", 20)
        lines = run_relay(requests, Scripted(*script, first=first), opening=opening)
    replies = replies_to(lines, *requests, *opening[:1])
    expected_ids = [json.dumps(request["id"]) for request in (*opening[:1], *requests)]
    assert sorted(json.dumps(request["id"]) for request in replies) == sorted(expected_ids)


@pytest.mark.parametrize(
    ("status", "body", "reply"),
    [
        (200, {"id": 1, "result": {"a": 1}}, {"result": {"a": 1}}),
        (200, {"jsonrpc": "2.0", "id": 1, "result": {"a": 1}, "error": None}, {"result": {"a": 1}}),
        (400, {"error": {"code": 403, "message": "no", "status": "DENIED"}}, {"error": {"code": 403, "message": "no"}}),
        (
            200,
            {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000}},
            {"error": {"code": -32000, "message": "no reason given"}},
        ),
    ],
)
def test_a_nearly_valid_answer_reaches_the_client_in_valid_form(status, body, reply):
    request = request_of("tools/call", modern=True)
    (answer,) = replies_to(alike(request, status, JSON, json.dumps(body).encode()), request)
    assert answer == {"jsonrpc": "2.0", "id": 1, **reply}


def test_an_error_in_plain_json_is_quoted_and_reported_as_not_executed():
    request = request_of("tools/call", modern=True)
    (answer,) = replies_to(alike(request, 401, JSON, b'{"error": "invalid_token"}'), request)
    assert "invalid_token" in answer["error"]["message"]
    assert answer["error"]["data"]["mcpfleet"]["outcome"] == "not_done"
