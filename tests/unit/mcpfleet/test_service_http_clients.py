"""HTTP clients for services, over a server in memory and a front end that refuses as Google's does."""

import contextlib
import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import MCPServer
from mcp.shared.exceptions import MCPError
from opentelemetry import context, propagate

from mcpfleet.errors import TokenEndpointUnavailableError, UsageError
from mcpfleet.service import CalledServer, HttpClients, RetryTransport, connections, servers_of
from mcpfleet.tokens import IdToken

AUDIENCE = "https://mcp-a-1.europe-west1.run.app"
URL = f"{AUDIENCE}/mcp"
ME = "serviceAccount:assistant@acme.iam.gserviceaccount.com"
HTML = {"content-type": "text/html"}
EXPIRED = {**HTML, "www-authenticate": 'Bearer error="invalid_token"'}

pytestmark = pytest.mark.anyio


class Account:
    """An account whose tokens are numbered and expire after an hour."""

    name = "metadata server"
    any_audience = True
    issues_fresh_tokens = True

    def __init__(self, clock):
        self.clock, self.count, self.error = clock, 0, None

    def fetch(self, audience):
        if self.error:
            raise self.error
        self.count += 1
        return IdToken(f"{self.count}|{audience}", self.clock() + 3600, ME, audience)


class FrontEnd(httpx2.AsyncBaseTransport):
    """A service; it returns `answers` first, to requests whose body contains `on`."""

    def __init__(self, app):
        self.way = httpx2.ASGITransport(app)
        self.answers, self.on, self.requests, self.calls = [], b"", [], []

    async def handle_async_request(self, request):
        self.requests.append(request)
        if b"tools/call" in request.content:
            self.calls.append(request.headers["x-serverless-authorization"])
        if self.answers and self.on in request.content:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return await self.way.handle_async_request(request)

    @property
    def methods(self):
        return [json.loads(request.content)["method"] for request in self.requests]


@pytest.fixture
async def world(clock):
    """A server with the tool `add`, the service's account, and a session of the SDK's client: `world.add()`."""
    server = MCPServer("a")

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    class World:
        def __init__(self):
            app = server.streamable_http_app(stateless_http=True, json_response=True, host="0.0.0.0")  # noqa: S104
            self.account, self.front_end, self.slept = Account(clock), FrontEnd(app), []

        async def sleep(self, seconds):
            self.slept.append(seconds)

        async def add(self):
            return (await self.client.call_tool("add", {"a": 1, "b": 2})).structured_content

    world = World()
    world.http = HttpClients(
        CalledServer(url=URL, audience=AUDIENCE),
        identity=world.account,
        pool=connections(60, world.front_end, world.sleep),
        clock=clock,
    )
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(server.session_manager.run())
        http = await stack.enter_async_context(world.http())
        world.client = await stack.enter_async_context(Client(streamable_http_client(URL, http_client=http)))
        world.front_end.requests.clear()
        yield world


async def test_a_session_continues_after_its_token_expires(world, clock):
    assert await world.add() == {"result": 3}
    clock.advance(3600)
    assert await world.add() == {"result": 3}
    assert world.account.count == 2
    assert [method for method in world.front_end.methods if method != "tools/call"] == ["tools/list"], "one session"
    assert world.front_end.calls == [f"Bearer 1|{AUDIENCE}", f"Bearer 2|{AUDIENCE}"]


async def test_in_a_mesh_no_token_is_fetched_or_sent(clock):
    account, requests = Account(clock), []

    def answer(request):
        requests.append(request)
        return httpx2.Response(403, headers=HTML)

    clients = HttpClients(
        CalledServer(url="http://mcp-a"), identity=account, pool=httpx2.MockTransport(answer), clock=clock
    )
    async with clients() as http:
        response = await http.post("http://mcp-a/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
    (request,) = requests
    assert account.count == 0
    assert not {"authorization", "x-serverless-authorization"} & set(request.headers)
    assert "add-iam-policy-binding mcp-a --region=REGION" in response.json()["error"]["message"]


async def test_a_refused_token_is_replaced_and_the_call_is_repeated(world, clock):
    clock.advance(100)
    world.front_end.answers = [httpx2.Response(401, headers=EXPIRED)]
    assert await world.add() == {"result": 3}
    assert world.front_end.calls == [f"Bearer 1|{AUDIENCE}", f"Bearer 2|{AUDIENCE}"]


@pytest.mark.parametrize(
    ("status", "outcome", "response"),
    [
        (401, "not_done", f"did not accept the token of {ME} for {AUDIENCE}"),
        (403, "not_done", f"add-iam-policy-binding mcp-a --region=europe-west1 --member={ME} --role=roles/run.invoker"),
        (404, "not_done", "has no such service"),
        (503, "unknown", "The server may have handled the request."),
    ],
)
async def test_a_refusal_is_an_error_of_the_call_and_the_session_continues(world, status, outcome, response):
    world.front_end.answers, world.front_end.on = [httpx2.Response(status, headers=HTML)], b"tools/call"
    with pytest.raises(MCPError) as raised:
        await world.add()
    assert response in raised.value.error.message
    assert raised.value.error.data == {"mcpfleet": {"outcome": outcome, "status": status}}
    assert await world.add() == {"result": 3}


@pytest.mark.parametrize(
    ("status", "response"),
    [
        (401, f"did not accept the token for {AUDIENCE}. Use an OAuth client"),
        (403, f"--service=mcp-a --region=europe-west1 --member={ME} --role=roles/iap.httpsResourceAccessor"),
    ],
)
async def test_a_refusal_by_iap_is_reported_as_iaps(world, status, response):
    iaps = httpx2.Response(status, headers={**HTML, "x-goog-iap-generated-response": "true"})
    world.front_end.answers, world.front_end.on = [iaps], b"tools/call"
    with pytest.raises(MCPError) as raised:
        await world.add()
    assert response in raised.value.error.message
    assert "run.invoker" not in raised.value.error.message


async def test_with_iap_the_token_is_in_authorization(clock):
    requests = []

    class Iap(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            requests.append(request.headers)
            return httpx2.Response(200)

    client = "4711-cli.apps.googleusercontent.com"
    server = CalledServer(url=URL, audience=client, header="Authorization")
    async with HttpClients(server, identity=Account(clock), pool=Iap(), clock=clock)() as http:
        await http.get(URL)
    assert requests[0]["authorization"] == f"Bearer 1|{client}"
    assert "x-serverless-authorization" not in requests[0]


@pytest.mark.parametrize(
    ("error", "outcome", "response"),
    [
        (httpx2.ReadError("reset"), "unknown", f"Cannot reach {AUDIENCE}: reset."),
        (httpx2.ReadTimeout(""), "unknown", "did not respond in time"),
    ],
)
async def test_an_interrupted_call_is_not_repeated_and_the_session_continues(world, error, outcome, response):
    world.front_end.answers, world.front_end.on = [error], b"tools/call"
    with pytest.raises(MCPError) as raised:
        await world.add()
    assert response in raised.value.error.message
    assert raised.value.error.data["mcpfleet"]["outcome"] == outcome
    assert world.front_end.methods.count("tools/call") == 1
    assert await world.add() == {"result": 3}


@pytest.mark.parametrize(
    "response", [{"ok": True}, [], {"jsonrpc": "2.0", "method": "x"}, {"jsonrpc": "2.0", "id": 99}]
)
async def test_a_json_response_without_the_answer_is_an_error_at_once(world, response):
    world.front_end.answers, world.front_end.on = [httpx2.Response(200, json=response)], b"tools/call"
    with pytest.raises(MCPError) as raised:
        await world.add()
    assert raised.value.error.message == (
        f"{AUDIENCE} returned 200 with JSON that is not a JSON-RPC reply. The server may have handled the request."
    )
    assert raised.value.error.data == {"mcpfleet": {"outcome": "unknown", "status": 502}}
    assert await world.add() == {"result": 3}


async def test_an_error_without_the_requests_id_reaches_the_caller(world):
    response = {"jsonrpc": "2.0", "id": None, "error": {"code": -32600, "message": "no such customer"}}
    world.front_end.answers, world.front_end.on = [httpx2.Response(200, json=response)], b"tools/call"
    with pytest.raises(MCPError, match="no such customer"):
        await world.add()
    assert await world.add() == {"result": 3}


async def test_a_response_over_the_limit_is_an_error_of_the_call_and_the_session_continues(world, monkeypatch):
    monkeypatch.setenv("MCPFLEET_MAX_ANSWER", "2048")
    long = httpx2.Response(200, headers={"content-type": "application/json"}, stream=httpx2.ByteStream(b" " * 4096))
    async with world.http() as http:
        world.front_end.answers = [long]
        response = await http.post(URL, json={"jsonrpc": "2.0", "id": "a", "method": "tools/list"})
    assert (
        "the response is larger than 2048 bytes; MCPFLEET_MAX_ANSWER sets this limit"
        in response.json()["error"]["message"]
    )


IDS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
MEMBERS = IDS | st.dictionaries(st.sampled_from(["code", "message", "data"]), IDS)
ANSWERS = st.dictionaries(st.sampled_from(["jsonrpc", "id", "result", "error", "method", "params"]), MEMBERS | IDS)


@given(
    body=st.binary(max_size=40)
    | (ANSWERS | st.lists(ANSWERS, max_size=2) | IDS).map(lambda one: json.dumps(one).encode()),
    request_id=st.integers() | st.text(),
)
async def test_a_request_gets_one_answer_of_its_own_for_any_json(body, request_id):
    headers = {"content-type": "application/json", "mcp-session-id": "s"}
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, headers=headers, content=body))
    async with HttpClients(CalledServer(url="http://localhost:1/mcp"), pool=transport)() as client:
        answer = await client.post(
            "http://localhost:1/mcp", json={"jsonrpc": "2.0", "id": request_id, "method": "tools/list"}
        )
    reply = answer.json()
    assert (reply["id"], type(reply["id"])) == (request_id, type(request_id))
    assert isinstance(reply.get("result"), dict) != isinstance(reply.get("error"), dict)


async def test_cold_starts_and_full_instances_are_retried(world):
    full = httpx2.Response(429, headers={"content-type": "text/plain", "retry-after": "3"}, text="Rate exceeded.")
    world.front_end.answers, world.front_end.on = [httpx2.ConnectError("refused"), full], b"tools/call"
    assert await world.add() == {"result": 3}
    assert world.slept == [0.25, 3.0]


async def test_a_429_from_the_server_itself_is_not_retried(world):
    full = httpx2.Response(429, headers={"content-type": "application/json"}, json={"error": "no more orders"})
    world.front_end.answers, world.front_end.on = [full], b"tools/call"
    with pytest.raises(MCPError):
        await world.add()
    assert (world.front_end.methods.count("tools/call"), world.slept) == (1, [])


@pytest.mark.parametrize(("connect", "longest"), [(None, 10), (60, 10), (3, 3)])
async def test_retries_end_after_a_time_limit(clock, connect, longest):
    class Refusing(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise httpx2.ConnectError("refused")

    async def sleep(seconds):
        clock.advance(seconds)

    started_at = clock()
    request = httpx2.Request("POST", URL, extensions={"timeout": {"connect": connect}})
    with pytest.raises(httpx2.ConnectError):
        await RetryTransport(Refusing(), 10, sleep, clock).handle_async_request(request)
    assert clock() - started_at <= longest


async def test_an_unreachable_metadata_server_is_reported_as_such(world, clock):
    clock.advance(3600)
    world.account.error = TokenEndpointUnavailableError("No token from the metadata server.")
    with pytest.raises(MCPError, match="No token from the metadata server"):
        await world.add()
    world.account.error = None
    assert await world.add() == {"result": 3}


async def test_a_call_has_the_callers_current_trace(world):
    parents = [f"00-{number:032x}-00000000000000aa-01" for number in (1, 2)]
    for parent in parents:
        token = context.attach(propagate.extract({"traceparent": parent, "tracestate": "x=1"}))
        await world.add()
        context.detach(token)
    calls = [request for request in world.front_end.requests if b"tools/call" in request.content]
    assert [request.headers["traceparent"] for request in calls] == parents
    assert [json.loads(request.content)["params"]["_meta"]["traceparent"] for request in calls] == parents
    assert {request.headers["tracestate"] for request in calls} == {"x=1"}


async def test_a_server_without_an_audience_gets_no_token():
    requests = []

    async def app(scope, receive, send):
        requests.append(dict(scope["headers"]))
        await httpx2_answer(send)

    async def httpx2_answer(send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    http = HttpClients(CalledServer(url="http://localhost:8081/mcp"), pool=httpx2.ASGITransport(app))
    async with http(headers={"x-app": "1"}) as client:
        await client.get("http://localhost:8081/mcp")
    assert requests[0][b"x-app"] == b"1"
    assert b"x-serverless-authorization" not in requests[0]


@given(
    body=st.one_of(
        st.binary(max_size=60), st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps)
    )
)
async def test_a_refusal_of_a_notification_is_unchanged(body):
    class Refusing(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            return httpx2.Response(403, headers=HTML, content=b"<html>")

    async with HttpClients(CalledServer(url="http://localhost:1/mcp"), pool=Refusing())() as client:
        answer = await client.post("http://localhost:1/mcp", content=body)
    assert (answer.status_code, answer.content) == (403, b"<html>")


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("", "MCP_SERVERS: Invalid JSON"),
        ("[]", "MCP_SERVERS: "),
        ('{"a": {"url": "https://a.run.app", "header": "Cookie"}}', "MCP_SERVERS.a.header: "),
        (
            '{"a": {"url": "http://elsewhere/mcp", "audience": "https://a"}, "b": {}}',
            "MCP_SERVERS.a.url: An ID token must not be sent",
        ),
        (
            '{"a": {"url": "http://elsewhere/mcp", "audience": "https://a"}, "b": {}}',
            "MCP_SERVERS.b.url: Field required",
        ),
    ],
)
def test_an_invalid_value_of_the_variable_is_named_by_its_path(text, response):
    with pytest.raises(UsageError) as raised:
        servers_of(text)
    assert response in str(raised.value)


def test_the_fleets_variable_is_read():
    text = json.dumps({"a": {"url": URL, "audience": AUDIENCE}, "near": {"url": "http://localhost:8081/mcp"}})
    assert servers_of(text) == {
        "a": CalledServer(url=URL, audience=AUDIENCE),
        "near": CalledServer(url="http://localhost:8081/mcp", audience=None),
    }
