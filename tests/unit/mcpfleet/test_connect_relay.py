"""The relay between a desktop client and a private server that is scripted, answer by answer."""

import asyncio
import json

import httpx2
import pytest

from mcpfleet import relay
from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.errors import TokenEndpointUnavailableError
from mcpfleet.relay import FIRST_RETRY_SECONDS, RETRY_SECONDS, Relay
from mcpfleet.target import Target
from mcpfleet.upstream import Upstream

BOUND = 10  # seconds; only a broken build waits this long
ORIGIN = "https://mcp-echo-481516.europe-west1.run.app"
MODERN = {"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}
JSON = {"content-type": "application/json"}
SSE = {"content-type": "text/event-stream"}
HTML = {"content-type": "text/html; charset=UTF-8"}

pytestmark = pytest.mark.anyio


class Stream(httpx2.AsyncByteStream):
    """A body whose parts the test sends one by one; `None` ends it, an exception breaks it off."""

    def __init__(self, *parts):
        self.parts = asyncio.Queue()
        self.closed = asyncio.Event()
        for part in parts:
            self.parts.put_nowait(part)

    def send(self, part):
        self.parts.put_nowait(part)

    async def __aiter__(self):
        while (part := await self.parts.get()) is not None:
            if isinstance(part, Exception):
                raise part
            yield part

    async def aclose(self):
        self.closed.set()


def event(message, ident=None, retry=None):
    lines = [f"id: {ident}"] if ident else []
    lines += [f"retry: {retry}"] if retry is not None else []
    data = json.dumps(message) if message is not None else ""
    return ("\n".join([*lines, f"data: {data}"]) + "\n\n").encode()


def stream(*parts, **headers):
    return httpx2.Response(200, headers={**SSE, **headers}, stream=Stream(*parts))


def json_response(result, ident=1, **headers):
    return httpx2.Response(200, headers={**JSON, **headers}, json={"jsonrpc": "2.0", "id": ident, "result": result})


def request(method, ident=1, **params):
    return {"jsonrpc": "2.0", "id": ident, "method": method, "params": params}


def call(name="pay", ident=1, **fields):
    return request("tools/call", ident, name=name, arguments={}, **MODERN, **fields)


class Server(httpx2.AsyncBaseTransport):
    """Gives its answers one after the other; an exception instead of an answer is raised.

    A GET that opens a session's stream is answered apart, for it comes when it likes: 405, or what a test gives.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.listening = []
        self.requests = []
        self.closed = 0
        self.arrived = asyncio.Condition()

    async def handle_async_request(self, request):
        await request.aread()
        async with self.arrived:
            self.requests.append(request)
            self.arrived.notify_all()
        if request.method == "GET" and "last-event-id" not in request.headers:
            return self.listening.pop(0) if self.listening else httpx2.Response(405)
        assert self.answers, f"nothing left to answer {request.method} {request.content!r} with"
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def received(self, count):
        async with self.arrived, asyncio.timeout(BOUND):
            await self.arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def aclose(self):
        self.closed += 1

    @property
    def methods(self):
        return [
            json.loads(client.content).get("method", "answer") if client.content else client.method
            for client in self.requests
        ]


class ConnectedClient:
    """A client at the relay's side."""

    def __init__(self, server, source, clock):
        self.server = server
        self.clock = clock
        self.moment = 0.0
        self.slept = []
        self.after = (float("inf"), None)
        self.lines = asyncio.Queue()
        auth = IdTokenAuth(ORIGIN, tokens=IdTokens(source, ORIGIN, clock=clock, start=lambda work: work()))
        upstream = Upstream(
            Target.parse(f"{ORIGIN}/mcp"), auth, transport=server, wall=clock, clock=lambda: self.moment
        )
        self.relay = Relay(upstream, self.lines.put_nowait, sleep=self.sleep, clock=lambda: self.moment)

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.moment += seconds
        if self.moment >= self.after[0]:
            self.after[1]()
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    async def say(self, *messages):
        for message in messages:
            await asyncio.wait_for(self.relay.handle_line(json.dumps(message).encode()), BOUND)

    async def hear(self):
        return json.loads(await asyncio.wait_for(self.lines.get(), BOUND))

    async def ask(self, message):
        await self.say(message)
        return await self.hear()


@pytest.fixture
async def connect(source, clock):
    clients = []

    def make(*answers):
        clients.append(ConnectedClient(Server(*answers), source, clock))
        return clients[-1]

    yield make
    for client in clients:
        client.server.answers = client.server.answers or [httpx2.Response(200)]
        await asyncio.wait_for(client.relay.aclose(), BOUND)


@pytest.fixture
def handshake():
    """The first messages of a client of a server with sessions, and the replies to them."""
    result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {"listChanged": True}}, "serverInfo": {}}
    opening = request("initialize", 0, protocolVersion="2025-11-25", capabilities={"sampling": {}}, clientInfo={})
    opened = {"jsonrpc": "2.0", "method": "notifications/initialized"}

    def answers(session):
        return [json_response(result, 0, **{"mcp-session-id": session}), httpx2.Response(202)]

    async def shake(client):
        await client.ask(opening)
        await client.say(opened)
        await client.server.received(3)

    return answers, shake


# --- crossing -------------------------------------------------------------------------------------------


async def test_a_request_is_sent_unchanged_with_a_token_and_its_versions_headers(connect, google):
    client = connect(httpx2.Response(200, headers=JSON, content=b'{"jsonrpc": "2.0", "id":1,"result":{"a" : 1}}'))
    await client.say(call("add"))
    assert await asyncio.wait_for(client.lines.get(), BOUND) == b'{"jsonrpc": "2.0", "id":1,"result":{"a" : 1}}'
    (sent,) = client.server.requests
    assert json.loads(sent.content) == call("add")
    assert (sent.method, str(sent.url)) == ("POST", f"{ORIGIN}/mcp")
    assert google.verify(sent.headers["x-serverless-authorization"], ORIGIN)
    assert (sent.headers["mcp-method"], sent.headers["mcp-name"]) == ("tools/call", "add")
    assert sent.headers["mcp-protocol-version"] == "2026-07-28"
    assert sent.headers["accept"] == "application/json, text/event-stream"


async def test_progress_arrives_before_the_answer_and_the_stream_is_read_to_its_end(connect):
    body = Stream()
    client = connect(httpx2.Response(200, headers=SSE, stream=body))
    await client.say(call())
    progress = {"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}
    body.send(b": keep-alive\n\n" + event(progress)[:20])
    body.send(event(progress)[20:])
    assert await client.hear() == progress
    body.send(event({"jsonrpc": "2.0", "id": 1, "result": {}}))
    assert (await client.hear())["result"] == {}
    body.send(None)
    await asyncio.wait_for(body.closed.wait(), BOUND)


async def test_an_answer_over_several_lines_becomes_one_line(connect):
    client = connect(
        httpx2.Response(200, headers=JSON, content=b'{\n  "jsonrpc": "2.0",\n  "id": 1,\n  "result": {}\n}')
    )
    await client.say(call())
    line = await asyncio.wait_for(client.lines.get(), BOUND)
    assert b"\n" not in line
    assert json.loads(line)["result"] == {}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("spaces", ["", "\n", "\r"])
@pytest.mark.parametrize("text", ["\u2028", "\u2029", "\x85", "\x7f", "\u00e9", "\\u2028", "\\ud800", "\\n"])
async def test_an_answer_is_one_line_for_every_reader(connect, streamed, spaces, text):
    """Node's readline, among others, takes more for a line's end than a line feed."""
    planted = f'{text}{{\\"jsonrpc\\":\\"2.0\\"}}{text}'
    body = f'{{"jsonrpc":"2.0",{spaces}"id":1,"result":{{{spaces}"t":"{planted}"}}}}'.encode()
    lines = b"\n".join(b"data: " + line for line in body.splitlines())
    client = connect(stream(lines + b"\n\n") if streamed else httpx2.Response(200, headers=JSON, content=body))
    await client.say(call())
    line = await asyncio.wait_for(client.lines.get(), BOUND)
    assert line.decode().splitlines() == [line.decode()]
    assert json.loads(line)["result"] == json.loads(body)["result"]


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
async def test_an_answer_in_another_encoding_becomes_utf_8(connect, coding):
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"t": "\u0a0a\u0a00"}}, ensure_ascii=False).encode(coding)
    client = connect(httpx2.Response(200, headers=JSON, content=body))
    await client.say(call())
    line = await asyncio.wait_for(client.lines.get(), BOUND)
    assert line.startswith(b"{")
    assert json.loads(line.decode())["result"]["t"] == "\u0a0a\u0a00"


async def test_a_line_with_a_windows_line_end_is_a_message(connect):
    client = connect(json_response({}))
    await client.relay.handle_line(json.dumps(call()).encode() + b"\r")
    assert (await client.hear())["result"] == {}
    await client.relay.handle_line(b"\r")
    assert client.lines.empty()


async def test_a_slow_call_delays_no_other(connect):
    slow = Stream()
    client = connect(httpx2.Response(200, headers=SSE, stream=slow), json_response({}, 2))
    await client.say(call(ident=1))
    await client.server.received(1)
    await client.say(call(ident=2))
    assert (await client.hear())["id"] == 2
    slow.send(event({"jsonrpc": "2.0", "id": 1, "result": {}}))
    slow.send(None)
    assert (await client.hear())["id"] == 1


async def test_the_servers_own_error_is_passed_on_under_the_requests_id(connect):
    error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32022, "message": "no", "data": {"supported": []}}}
    answer = await connect(httpx2.Response(400, headers=JSON, json=error)).ask(call(ident="x"))
    assert answer == {**error, "id": "x"}


async def test_an_invalid_line_gets_an_error_and_affects_nothing_else(connect):
    client = connect(json_response({}))
    await client.relay.handle_line(b"nonsense")
    assert (await client.hear())["error"]["code"] == -32700
    await client.relay.handle_line(b'{"id": 7, "method": 1}')
    assert (await client.hear())["id"] == 7
    await client.relay.handle_line(b'{"id": NaN, "method": "ping"}')
    assert (await client.hear())["id"] is None
    await client.relay.handle_line(b"  ")
    assert (await client.ask(call()))["result"] == {}


async def test_a_failed_discover_of_an_old_server_is_method_not_found(connect):
    answer = await connect(httpx2.Response(400, headers={"content-type": "text/plain"})).ask(
        request("server/discover", **MODERN)
    )
    assert answer["error"]["code"] == -32601


async def test_an_answer_is_accepted_only_on_its_own_request(connect, handshake):
    answers, shake = handshake
    first, second = Stream(), Stream()
    client = connect(*answers("s1"), httpx2.Response(200, headers=SSE, stream=first), json_response({"paid": 1}, 2))
    client.server.listening = [httpx2.Response(200, headers=SSE, stream=second)]
    await shake(client)
    await client.say(request("tools/call", 1, name="slow"))
    planted = {"jsonrpc": "2.0", "id": 2, "result": {"planted": True}}
    second.send(event(planted))
    first.send(event(planted) + event({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}))
    assert (await client.hear())["method"] == "notifications/message"
    assert (await client.ask(request("tools/call", 2, name="pay")))["result"] == {"paid": 1}
    first.send(event({"jsonrpc": "2.0", "id": 1, "result": {}}))
    first.send(None)
    assert (await client.hear())["id"] == 1
    assert client.lines.empty()


async def test_a_connection_lost_after_the_answer_causes_no_retry(connect):
    class Broken(Stream):
        async def aclose(self):
            raise httpx2.ReadError("reset")

    body = event({"jsonrpc": "2.0", "id": 1, "result": {}})
    client = connect(httpx2.Response(200, headers=SSE, stream=Broken(body, httpx2.ReadError("reset"))))
    assert (await client.ask(request("tools/list", **MODERN)))["result"] == {}
    await asyncio.wait_for(client.relay.aclose(1), BOUND)
    assert client.lines.empty()
    assert len(client.server.requests) == 1


# --- sessions -------------------------------------------------------------------------------------------


async def test_every_later_message_has_the_session_and_its_protocol_version(connect, handshake):
    answers, shake = handshake
    client = connect(*answers("s1"), json_response({}))
    await shake(client)
    await client.ask(request("tools/call", name="x"))
    opening, *later = client.server.requests
    assert "mcp-session-id" not in opening.headers
    for sent in later:
        assert sent.headers["mcp-session-id"] == "s1"
        assert sent.headers["mcp-protocol-version"] == "2025-11-25"
    assert client.server.methods == ["initialize", "notifications/initialized", "GET", "tools/call"]


async def test_a_servers_request_reaches_its_client_and_is_answered(connect, handshake):
    answers, shake = handshake
    body = Stream()
    client = connect(*answers("s1"), httpx2.Response(200, headers=SSE, stream=body), httpx2.Response(202))
    await shake(client)
    await client.say(request("tools/call", name="ask"))
    sampling = request("sampling/createMessage", 7, messages=[])
    body.send(event(sampling))
    assert await client.hear() == sampling
    await client.say({"jsonrpc": "2.0", "id": 7, "result": {"content": {}}})
    sent = (await client.server.received(5))[4]
    assert json.loads(sent.content)["result"] == {"content": {}}
    assert sent.headers["mcp-session-id"] == "s1"
    body.send(event({"jsonrpc": "2.0", "id": 1, "result": {}}))
    body.send(None)
    assert (await client.hear())["id"] == 1


async def test_unsolicited_messages_of_a_server_reach_the_client(connect, handshake):
    answers, shake = handshake
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
    body = Stream(event(changed))
    client = connect(*answers("s1"))
    client.server.listening = [httpx2.Response(200, headers=SSE, stream=body)]
    await shake(client)
    assert await client.hear() == changed


async def test_the_get_stream_is_reopened_with_a_delay(connect, handshake):
    answers, shake = handshake
    client = connect(*answers("s1"))
    client.server.listening = [stream(event(None, retry=0), None) for _ in range(5)]
    await shake(client)
    await client.server.received(2 + 5)
    assert min(client.slept) > 0


async def test_a_lost_session_is_replaced_and_the_call_is_made_once(connect, handshake):
    answers, shake = handshake
    not_found = httpx2.Response(404, headers=JSON, json={"jsonrpc": "2.0", "id": None, "error": {"code": -32600}})
    client = connect(
        *answers("s1"),
        json_response({}, 5),
        not_found,
        *answers("s2"),
        json_response({}, 5),
        json_response({"paid": 1}),
    )
    await shake(client)
    await client.ask(request("logging/setLevel", 5, level="debug"))
    await client.say(request("tools/call", name="pay"))
    notifications = [await client.hear(), await client.hear()]
    assert {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"} in notifications
    assert {"jsonrpc": "2.0", "id": 1, "result": {"paid": 1}} in notifications
    repeated = client.server.requests[5:]
    assert [json.loads(sent.content).get("method") for sent in repeated[:3] if sent.content] == [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
    ]
    calls = [sent for sent in client.server.requests if b"tools/call" in sent.content]
    assert [sent.headers["mcp-session-id"] for sent in calls] == ["s1", "s2"]


@pytest.mark.parametrize(
    ("error_text", "calls"),
    [
        ("Bad Request: No valid session ID provided", 2),
        ("Missing session ID", 2),
        ("Session not found", 2),
        ("Your payment session has expired", 1),
        ("the session with the bank ended after the transfer", 1),
    ],
)
async def test_a_call_is_repeated_only_for_an_error_about_its_own_session(connect, handshake, error_text, calls):
    answers, shake = handshake
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32000, "message": error_text}}
    client = connect(
        *answers("s1"), httpx2.Response(400, headers=JSON, json=error), *answers("s2"), json_response({"paid": 1})
    )
    await shake(client)
    await client.say(request("tools/call", name="pay"))
    notifications = await client.hear()
    while notifications.get("id") != 1:
        notifications = await client.hear()
    assert client.server.methods.count("tools/call") == calls


async def test_a_server_that_ends_every_session_is_given_up(connect, handshake):
    answers, shake = handshake
    not_found = [httpx2.Response(404, headers=JSON, json={}) for _ in range(9)]
    refused = httpx2.Response(500, headers=JSON, json={"jsonrpc": "2.0", "id": 0, "error": {"code": 1, "message": "x"}})
    client = connect(*answers("s1"), not_found[0], refused)
    await shake(client)
    answer = await client.ask(request("tools/call", name="pay"))
    assert "makes no new one" in answer["error"]["message"]
    assert answer["error"]["data"]["mcpfleet"]["outcome"] == "not_done"


async def test_disconnecting_ends_the_session(connect, handshake):
    answers, shake = handshake
    client = connect(*answers("s1"), httpx2.Response(200))
    await shake(client)
    await client.relay.aclose()
    assert client.server.requests[-1].method == "DELETE"
    assert client.server.requests[-1].headers["mcp-session-id"] == "s1"


# --- cancelling -----------------------------------------------------------------------------------------


async def test_cancelling_closes_the_stream_and_no_answer_is_sent(connect):
    body = Stream()
    client = connect(httpx2.Response(200, headers=SSE, stream=body), json_response({}, 2))
    await client.say(call())
    await client.server.received(1)
    await client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    await asyncio.wait_for(body.closed.wait(), BOUND)
    assert (await client.ask(call(ident=2)))["id"] == 2
    assert client.lines.empty()
    assert len(client.server.requests) == 2, "revision 2026-07-28 cancels by closing the stream, not by a message"


async def test_cancelling_in_a_session_notifies_the_server_and_closes_the_stream(connect, handshake):
    answers, shake = handshake
    body = Stream()
    client = connect(*answers("s1"), httpx2.Response(200, headers=SSE, stream=body), httpx2.Response(202))
    await shake(client)
    await client.say(request("tools/call", name="slow"))
    await client.server.received(4)
    await client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    await asyncio.wait_for(body.closed.wait(), BOUND)
    assert client.server.methods[-1] == "notifications/cancelled"
    assert client.lines.empty()


async def test_cancelling_a_request_that_waits_for_a_retry_ends_it(connect):
    client = connect(httpx2.ConnectError("refused"), json_response({}, 2))
    blocked = asyncio.Event()

    async def sleep(_seconds):
        blocked.set()
        await asyncio.Event().wait()

    client.relay._sleep = sleep
    await client.say(call())
    await asyncio.wait_for(blocked.wait(), BOUND)
    await client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    assert (await client.ask(call(ident=2)))["id"] == 2


# --- failures -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trouble",
    [
        httpx2.ConnectError("Connection refused"),
        httpx2.ConnectTimeout("slow"),
        httpx2.Response(429, headers={"content-type": "text/plain", "retry-after": "3"}, text="Rate exceeded."),
    ],
)
async def test_a_call_that_never_reached_the_tool_is_sent_again(connect, trouble):
    client = connect(trouble, json_response({"paid": 1}))
    assert (await client.ask(call()))["result"] == {"paid": 1}
    assert client.slept == [3.0 if isinstance(trouble, httpx2.Response) else 0.25]


BROKEN = [
    httpx2.ReadError("reset"),
    httpx2.RemoteProtocolError("Server disconnected without sending a response."),
    httpx2.Response(503, headers={"content-type": "text/plain"}, text="upstream connect error"),
    httpx2.Response(502, headers=HTML, text="bad gateway"),
    # The front end did not say it, so the server did: after what, nobody knows.
    httpx2.Response(429, headers=JSON, json={"error": "the shop takes no more orders"}),
    httpx2.Response(429, content=b""),
]


def broken_streams():
    return [stream(httpx2.ReadError("reset")), stream(None), stream(b"data: {", httpx2.RemoteProtocolError("cut"))]


@pytest.mark.parametrize("number", range(9))
async def test_a_call_that_may_have_run_is_not_repeated_and_the_client_is_informed(connect, number):
    client = connect([*BROKEN, *broken_streams()][number])
    answer = await client.ask(call("pay"))
    assert len(client.server.requests) == 1
    assert answer["error"]["data"]["mcpfleet"]["outcome"] == "unknown"
    assert "The server may have handled pay" in answer["error"]["message"]
    assert "not called again" in answer["error"]["message"]


@pytest.mark.parametrize("number", range(9))
async def test_a_read_only_tool_is_called_again(connect, number):
    listing = json_response({"tools": [{"name": "look", "annotations": {"readOnlyHint": True}}]}, 9)
    client = connect(listing, [*BROKEN, *broken_streams()][number], json_response({"seen": 1}))
    await client.ask(request("tools/list", 9, **MODERN))
    assert (await client.ask(call("look")))["result"] == {"seen": 1}
    assert len(client.server.requests) == 3


async def test_a_read_only_tool_is_not_called_again_after_a_request_to_the_client(connect, handshake):
    answers, shake = handshake
    listing = json_response({"tools": [{"name": "look", "annotations": {"readOnlyHint": True}}]}, 9)
    body = Stream(event(request("elicitation/create", 7)), httpx2.ReadError("reset"))
    client = connect(*answers("s1"), listing, httpx2.Response(200, headers=SSE, stream=body))
    await shake(client)
    await client.ask(request("tools/list", 9))
    await client.say(request("tools/call", name="look"))
    assert (await client.hear())["method"] == "elicitation/create"
    assert (await client.hear())["error"]["data"]["mcpfleet"] == {"outcome": "unknown", "attempts": 1}
    assert client.server.methods.count("tools/call") == 1


async def test_a_403_names_the_invoker_to_add_and_is_not_retried(connect):
    client = connect(httpx2.Response(403, headers=HTML, text="<html>"))
    error = (await client.ask(call()))["error"]
    assert "user:ada@acme.dev may not call" in error["message"]
    assert "add-iam-policy-binding mcp-echo --region=europe-west1 --member=user:ada@acme.dev" in error["message"]
    assert error["data"]["mcpfleet"] == {"outcome": "not_done", "attempts": 1, "status": 403}


async def test_a_redirect_is_reported_and_not_followed(connect):
    location = {"location": "http://mcp-echo-481516.europe-west1.run.app/mcp"}
    error = (await connect(httpx2.Response(307, headers=location)).ask(call()))["error"]
    assert "redirects to http://" in error["message"]


async def test_a_refused_token_is_renewed_and_the_call_succeeds(connect, clock, source):
    refused = {**HTML, "www-authenticate": 'Bearer error="invalid_token"'}
    client = connect(json_response({}, 0), httpx2.Response(401, headers=refused), json_response({"paid": 1}))
    await client.ask(call(ident=0))
    clock.advance(600)
    client.moment += 600
    assert (await client.ask(call()))["result"] == {"paid": 1}
    assert source.fetched == 2


async def test_a_temporarily_unreachable_token_endpoint_only_delays_a_call(connect, source):
    client = connect(json_response({"paid": 1}))
    source.error = TokenEndpointUnavailableError("the metadata server did not answer")
    client.after = (5, lambda: setattr(source, "error", None))
    assert (await client.ask(call()))["result"] == {"paid": 1}
    assert 5 <= client.moment < 10


async def test_a_network_failure_of_ten_seconds_only_delays_a_call(connect):
    client = connect(json_response({}, 0))
    await client.ask(call(ident=0))
    client.server.answers = [
        *(httpx2.ConnectError("Network is unreachable") for _ in range(5)),
        json_response({"paid": 1}),
    ]
    assert (await client.ask(call()))["result"] == {"paid": 1}
    assert sum(client.slept) < 12


async def test_a_permanent_failure_is_reported_with_its_reason(connect):
    client = connect(*(httpx2.ConnectError("Connection refused") for _ in range(50)))
    error = (await client.ask(call()))["error"]
    assert "Cannot reach" in error["message"]
    assert error["data"]["mcpfleet"]["outcome"] == "not_done"
    assert client.moment <= FIRST_RETRY_SECONDS
    client.server.answers = [json_response({}, 2)]
    await client.ask(call(ident=2))
    client.server.answers = [httpx2.ConnectError("Connection refused") for _ in range(50)]
    start = client.moment
    assert "Cannot reach" in (await client.ask(call(ident=3)))["error"]["message"]
    assert FIRST_RETRY_SECONDS < client.moment - start <= RETRY_SECONDS


async def test_a_response_that_is_no_json_rpc_is_an_error(connect):
    client = connect(httpx2.Response(200, headers={"content-type": "text/html"}, text="<html>hello"))
    assert "Check that the URL is an MCP endpoint" in (await client.ask(call()))["error"]["message"]


async def test_connections_are_not_reused_after_a_suspend(connect, clock):
    client = connect(json_response({}, 1), json_response({}, 2), json_response({}, 3))
    await client.ask(call(ident=1))
    await client.ask(call(ident=2))
    assert client.server.closed == 0
    clock.advance(3600)  # the wall's clock went on, the monotonic one stood still
    await client.ask(call(ident=3))
    await client.relay.aclose()
    assert client.server.closed == 1


# --- streams that are opened again ----------------------------------------------------------------------


async def test_an_interrupted_stream_is_resumed_at_its_last_event(connect, handshake):
    answers, shake = handshake
    first = stream(event(None, "e1", 1500), event({"jsonrpc": "2.0", "method": "notifications/message"}, "e2"), None)
    rest = stream(event({"jsonrpc": "2.0", "id": 1, "result": {"paid": 1}}, "e3"), None)
    client = connect(*answers("s1"), first, httpx2.ConnectError("away"), rest)
    await shake(client)
    await client.say(request("tools/call", name="pay"))
    assert (await client.hear())["method"] == "notifications/message"
    assert (await client.hear())["result"] == {"paid": 1}
    resumed = client.server.requests[-1]
    assert (resumed.method, resumed.headers["last-event-id"]) == ("GET", "e2")
    assert client.slept == [1.5, 1.5]
    assert client.server.methods.count("tools/call") == 1


async def test_an_interrupted_stream_without_event_ids_is_an_unknown_outcome(connect, handshake):
    answers, shake = handshake
    client = connect(*answers("s1"), stream(event(None, "e1"), None), httpx2.Response(405))
    await shake(client)
    answer = await client.ask(request("tools/call", name="pay"))
    assert answer["error"]["data"]["mcpfleet"]["outcome"] == "unknown"


def polled_streams(count):
    """The streams of a server that ends each of them after an event with an id to resume from."""
    return [stream(event(None, f"e{number}", 0), None) for number in range(count)]


async def test_a_stream_interrupted_a_thousand_times_is_resumed_each_time(connect, handshake):
    answers, shake = handshake
    last = stream(event({"jsonrpc": "2.0", "id": 1, "result": {"paid": 1}}, "last"), None)
    client = connect(*answers("s1"), *polled_streams(1500), last)
    await shake(client)
    assert (await client.ask(request("tools/call", name="pay")))["result"] == {"paid": 1}
    assert client.server.methods.count("tools/call") == 1


async def test_a_server_that_interrupts_every_stream_is_given_up(connect, handshake, monkeypatch):
    monkeypatch.setattr(relay, "MAX_RESUMES", 20)
    answers, shake = handshake
    client = connect(*answers("s1"), *polled_streams(30))
    await shake(client)
    answer = await client.ask(request("tools/call", name="pay"))
    assert answer["error"]["data"]["mcpfleet"]["outcome"] == "unknown"
    assert len(client.server.answers) == 30 - 1 - 20
    assert min(client.slept) > 0, "nor without a pause"


def listening():
    return request("subscriptions/listen", notifications={"toolsListChanged": True}, **MODERN)


ACK = {"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {"notifications": {}}}


@pytest.mark.parametrize(
    "end",
    [None, httpx2.ReadError("reset"), event({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete"}})],
    ids=["closed", "broken", "the instance says goodbye"],
)
async def test_a_subscription_outlives_the_instance_that_held_it(connect, end):
    first, second = Stream(event(ACK)), Stream(event(ACK))
    client = connect(
        httpx2.Response(200, headers=SSE, stream=first),
        httpx2.Response(503, headers={"content-type": "text/plain"}),
        httpx2.Response(200, headers=SSE, stream=second),
    )
    assert await client.ask(listening()) == ACK
    first.send(end)
    first.send(None)
    changed = await client.hear()
    assert changed["method"] == "notifications/tools/list_changed"
    assert changed["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 1}
    assert client.lines.empty(), "it is acknowledged once"
    await client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    await asyncio.wait_for(second.closed.wait(), BOUND)


async def test_a_refused_subscription_is_not_retried(connect):
    error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no"}}
    assert await connect(httpx2.Response(404, headers=JSON, json=error)).ask(listening()) == error
