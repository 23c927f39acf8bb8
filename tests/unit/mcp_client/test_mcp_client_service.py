"""The client service, over servers in memory and a front end that refuses as Cloud Run's does."""

import asyncio
import contextlib
import io
import json
import logging
import re

import httpx2
import pytest
from mcp.server.mcpserver import MCPServer

from mcp_client.app import build_app
from mcp_client.calls import Fleet
from mcp_client.settings import CalledServer, SettingsError, load_settings
from mcpfleet.errors import TokenEndpointUnavailableError
from mcpfleet.tokens import IdToken
from mcpfleet_server import logs

A, B = "https://mcp-a-1.europe-west1.run.app", "https://mcp-b-1.europe-west1.run.app"
HTML = {"content-type": "text/html"}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Account:
    name = "metadata server"
    any_audience = True
    issues_fresh_tokens = True
    error = None

    def fetch(self, audience):
        if self.error:
            raise self.error
        member = "serviceAccount:assistant@acme.iam.gserviceaccount.com"
        return IdToken(f"assistant|{audience}", 2**40, member, audience)


def mcp_server(name):
    server = MCPServer(name)

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    if name == "b":

        @server.tool()
        def multiply(a: int, b: int) -> int:
            """Multiply two whole numbers."""
            return a * b

    return server


class Cloud(httpx2.AsyncBaseTransport):
    """Two services by their hosts; tokens for another audience get 401; what a test scripts comes first."""

    def __init__(self, apps):
        self.ways = {host: httpx2.ASGITransport(app) for host, app in apps.items()}
        self.scripted = []
        self.requests = []
        self.closed = 0

    async def handle_async_request(self, request):
        self.requests.append(request)
        if self.scripted:
            answer = self.scripted.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        audience = f"https://{request.url.host}"
        if request.headers.get("x-serverless-authorization") != f"Bearer assistant|{audience}":
            return httpx2.Response(401, headers=HTML)
        return await self.ways[request.url.host].handle_async_request(request)

    async def aclose(self):
        self.closed += 1


@pytest.fixture
async def service():
    """`service.post(question)`, with `service.cloud` behind it."""
    async with contextlib.AsyncExitStack() as stack:
        apps = {}
        for name, origin in (("a", A), ("b", B)):
            server = mcp_server(name)
            app = server.streamable_http_app(stateless_http=True, json_response=True, host="0.0.0.0")  # noqa: S104
            await stack.enter_async_context(server.session_manager.run())
            apps[origin.removeprefix("https://")] = app

        class Service:
            cloud = Cloud(apps)
            account = Account()

            async def sleep(self, seconds):
                self.slept.append(seconds)

        one = Service()
        one.slept = []
        servers = {name: CalledServer(url=f"{url}/mcp", audience=url) for name, url in (("a", A), ("b", B))}
        one.fleet = Fleet(servers, 20, source=one.account, transport=one.cloud, sleep=one.sleep)
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(build_app(one.fleet)), base_url="http://client")
        one.http = await stack.enter_async_context(http)

        async def post(question, **headers):
            return await asyncio.wait_for(one.http.post("/ask", json=question, headers=headers), 30)

        one.post = post
        yield one


async def test_it_lists_the_tools_of_all_its_servers(service):
    answer = (await service.post({})).json()
    names = {name: [tool["name"] for tool in one["tools"]] for name, one in answer["servers"].items()}
    assert names == {"a": ["add"], "b": ["add", "multiply"]}


async def test_it_calls_a_tool_of_every_server_that_has_it_with_a_token_for_each(service):
    answer = await service.post({"tool": "add", "arguments": {"a": 1, "b": 2}})
    assert answer.status_code == 200
    assert {name: one["result"]["structuredContent"] for name, one in answer.json()["servers"].items()} == {
        "a": {"result": 3},
        "b": {"result": 3},
    }
    assert {request.headers["x-serverless-authorization"] for request in service.cloud.requests} == {
        f"Bearer assistant|{A}",
        f"Bearer assistant|{B}",
    }
    only = (await service.post({"tool": "multiply", "arguments": {"a": 3, "b": 2}})).json()["servers"]
    assert list(only) == ["b"]


class Pages(httpx2.AsyncBaseTransport):
    """A server whose list of tools has so many pages, with such descriptions."""

    def __init__(self, count, description=""):
        self._count, self._description = count, description

    async def handle_async_request(self, request):
        message = json.loads(request.content)
        match message["method"]:
            case "initialize":
                about = {"name": "pages", "version": "1"}
                result = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about}
            case "tools/list":
                page = int(message.get("params", {}).get("cursor", 0))
                tool = {"name": f"t{page}", "description": self._description, "inputSchema": {"type": "object"}}
                more = {"nextCursor": str(page + 1)} if page + 1 < self._count else {}
                result = {"tools": [tool], **more}
            case "tools/call":
                result = {"content": [{"type": "text", "text": message["params"]["name"]}]}
            case "notifications/initialized":
                return httpx2.Response(202)
            case _:
                return self._answer(message, {"error": {"code": -32601, "message": "no such method"}})
        return self._answer(message, {"result": result})

    def _answer(self, message, result):
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], **result}).encode()
        return httpx2.Response(200, headers={"content-type": "application/json"}, stream=httpx2.ByteStream(body))


def fleet_of(transport):
    return Fleet({"a": CalledServer(url=f"{A}/mcp", audience=A)}, 20, source=Account(), transport=transport)


async def test_a_tool_on_the_last_page_of_a_list_is_called():
    fleet = fleet_of(Pages(3))
    assert [tool["name"] for tool in (await fleet.list_tools(["a"]))["a"]["tools"]] == ["t0", "t1", "t2"]
    assert (await fleet.call_tool(["a"], "t2", {}))["a"]["result"]["content"][0]["text"] == "t2"


async def test_a_list_without_end_is_left():
    message = (await fleet_of(Pages(10**9)).list_tools(["a"]))["a"]["error"]["message"]
    assert "more than 100 pages" in message


async def test_the_pages_of_a_list_have_a_bound_together(monkeypatch):
    monkeypatch.setenv("MCPFLEET_MAX_ANSWER", "4096")
    message = (await fleet_of(Pages(50, "x" * 2000)).list_tools(["a"]))["a"]["error"]["message"]
    assert "together are longer" in message
    assert len(message.splitlines()) == 1


async def test_it_says_of_each_server_whether_it_reaches_it_and_calls_nothing(service):
    statuses = {name: (await service.http.get(f"/servers/{name}")) for name in ("a", "b")}
    assert {name: (one.status_code, one.json()) for name, one in statuses.items()} == {
        "a": (200, {"server": "a", "tools": 1}),
        "b": (200, {"server": "b", "tools": 2}),
    }
    assert not [request for request in service.cloud.requests if b"tools/call" in request.content]
    unknown = await service.http.get("/servers/c")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["message"] == "this service does not call it; it calls a, b"


async def test_a_server_that_it_does_not_reach_is_said_with_the_reason_and_soon(service, monkeypatch):
    monkeypatch.setattr("mcpfleet.reach.CONNECT_SECONDS", 0.1)  # less than the first pause between two attempts
    service.cloud.scripted = [httpx2.ConnectError("refused")] * 100
    answer = await asyncio.wait_for(service.http.get("/servers/a"), 30)
    assert answer.status_code == 502
    assert answer.json()["error"] == {"status": 502, "message": f"Cannot reach {A}: refused."}
    service.cloud.scripted = [httpx2.Response(403, headers=HTML)] * 100
    error = (await asyncio.wait_for(service.http.get("/servers/a"), 30)).json()["error"]
    assert error["status"] == 403
    assert "add-iam-policy-binding mcp-a" in error["message"]


async def test_a_server_that_answers_nothing_is_left_before_anybody_loses_patience(service, monkeypatch):
    monkeypatch.setattr("mcpfleet.reach.SECONDS", 0.05)

    class Silent(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            await asyncio.Event().wait()

    app = build_app(fleet_of(Silent()))
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://client") as http:
        answer = await asyncio.wait_for(http.get("/servers/a"), 30)
    assert answer.json()["error"]["message"] == f"{A} did not respond within 0.05 s."


async def test_a_tool_that_no_server_has_is_said(service):
    answer = await service.post({"tool": "subtract"})
    assert answer.status_code == 502
    assert answer.json()["servers"]["a"]["error"]["message"] == "the server has no tool subtract"


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "did not accept the token of serviceAccount:assistant@acme.iam.gserviceaccount.com"),
        (403, "--member=serviceAccount:assistant@acme.iam.gserviceaccount.com --role=roles/run.invoker"),
        (404, "has no such service"),
    ],
)
async def test_a_refusal_says_who_was_refused_and_what_to_type(service, status, message):
    service.cloud.scripted = [httpx2.Response(status, headers=HTML) for _ in range(4)]
    answer = await service.post({"servers": ["a"]})
    assert answer.status_code == 502
    error = answer.json()["servers"]["a"]["error"]
    assert error["status"] == status
    assert message in error["message"]


async def test_one_servers_trouble_is_not_the_others(service):
    service.cloud.ways.pop(A.removeprefix("https://"))
    answer = await service.post({})
    assert answer.status_code == 200
    assert "error" in answer.json()["servers"]["a"]
    assert "tools" in answer.json()["servers"]["b"]


async def test_a_cold_start_and_a_full_house_are_waited_for(service):
    full = httpx2.Response(429, headers={"content-type": "text/plain", "retry-after": "3"}, text="Rate exceeded.")
    service.cloud.scripted = [httpx2.ConnectError("refused"), full]
    answer = await service.post({"servers": ["a"]})
    assert answer.status_code == 200
    assert service.slept == [0.25, 3.0]


async def test_what_may_have_been_carried_out_is_not_sent_again(service):
    service.cloud.scripted = [httpx2.ReadError("reset")] * 2
    answer = await service.post({"servers": ["a"], "tool": "add", "arguments": {"a": 1, "b": 1}})
    assert service.slept == []
    assert "Cannot reach" in answer.json()["servers"]["a"]["error"]["message"]


async def test_a_metadata_server_that_is_away_is_said_in_its_own_words(service):
    service.account.error = TokenEndpointUnavailableError("No token from the metadata server.")
    answer = await service.post({"servers": ["a"]})
    assert answer.json()["servers"]["a"]["error"]["message"] == "No token from the metadata server."


TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_the_trace_of_the_question_goes_on_with_every_call(service):
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    await service.post({}, traceparent=parent, tracestate="x=1")
    await service.post({}, **{"x-cloud-trace-context": f"{TRACE[::-1]}/17;o=1"})
    half = len(service.cloud.requests) // 2
    traced = [request.headers.get("traceparent") for request in service.cloud.requests]
    assert set(traced[:half]) == {parent}
    assert set(traced[half:]) == {f"00-{TRACE[::-1]}-0000000000000011-01"}, "one question's trace is not the next one's"
    traces = [json.loads(request.content) for request in service.cloud.requests if b"tools/list" in request.content]
    assert [one["params"]["_meta"]["traceparent"] for one in traces] == [traced[0]] * 2 + [traced[-1]] * 2
    assert service.cloud.requests[0].headers["tracestate"] == "x=1"
    assert "tracestate" not in service.cloud.requests[-1].headers


@pytest.mark.parametrize(
    "header", [None, "nonsense", f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{TRACE}-{'0' * 16}-01"]
)
async def test_a_question_without_a_trace_begins_one(service, header):
    for _ in range(2):
        await service.post({"servers": ["a"]}, **({"traceparent": header} if header else {}))
    first, second = ({request.headers["traceparent"] for request in half} for half in _halves(service.cloud.requests))
    assert len(first) == len(second) == 1
    assert first != second
    assert all(re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]", one) for one in first | second)


def _halves(requests):
    return requests[: len(requests) // 2], requests[len(requests) // 2 :]


@pytest.fixture
def logged():
    """`logged()`: what has been written, as Cloud Logging would read it."""
    stream, old_level = io.StringIO(), (logging.root.handlers[:], logging.root.level)
    logs.install("INFO", "acme", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.root.handlers[:], logging.root.level = old_level
    logging.captureWarnings(capture=False)


async def test_each_call_of_a_server_is_one_line_that_belongs_to_the_trace(service, logged):
    service.cloud.ways.pop(B.removeprefix("https://"))
    parent = f"00-{TRACE}-b7ad6b7169203331-01"
    await service.post({"tool": "add", "arguments": {"a": 1, "b": 2}}, traceparent=parent)
    entries = {entry["fields"]["server"]: entry for entry in logged()}
    assert len(logged()) == 2
    assert {record["logging.googleapis.com/trace"] for record in entries.values()} == {f"projects/acme/traces/{TRACE}"}
    succeeded = entries["a"]
    assert (succeeded["severity"], succeeded["message"]) == ("INFO", "tools/call add of a: ok")
    assert succeeded["fields"]["outcome"] == "ok"
    assert (
        succeeded["httpRequest"].items() >= {"requestMethod": "POST", "requestUrl": f"{A}/mcp", "status": 200}.items()
    )
    assert re.fullmatch(r"\d+\.\d{6}s", succeeded["httpRequest"]["latency"])
    assert entries["b"]["severity"] == "WARNING"
    assert entries["b"]["message"].startswith("tools/call add of b: error: KeyError")


async def test_a_refusal_is_logged_with_its_status_and_no_token_with_anything(service, logged):
    service.cloud.scripted = [httpx2.Response(403, headers=HTML) for _ in range(4)]
    await service.post({"servers": ["a"]})
    (entry,) = logged()
    assert (entry["severity"], entry["fields"]["outcome"]) == ("WARNING", "refused")
    assert entry["httpRequest"]["status"] == 403
    assert "roles/run.invoker" in entry["message"]
    assert "assistant|" not in json.dumps(logged())


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"servers": ["c"]}, "does not call c; it calls a, b"),
        ({"tol": "add"}, "tol: Extra inputs are not permitted"),
        ({"arguments": 3}, "arguments: "),
        ("nonsense", "the body: "),
    ],
)
async def test_a_question_that_is_none_is_refused_with_the_reason(service, question, message):
    body = question if isinstance(question, str) else json.dumps(question)
    answer = await service.http.post("/ask", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"origin": "https://evil.dev"}, 403),
        ({"origin": "https://evil.dev", "sec-fetch-site": "cross-site", "content-type": "text/plain"}, 403),
        ({"origin": "https://b.acme.dev", "sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "null"}, 403),
    ],
)
async def test_a_page_of_somebody_else_has_no_tool_called(service, headers, status):
    all_headers = {"host": "localhost:8080", "content-type": "application/json", **headers}
    answer = await service.http.post(
        "/ask", content='{"tool": "add", "arguments": {"a": 1, "b": 2}}', headers=all_headers
    )
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
    assert service.cloud.requests == []


async def test_its_own_page_asks_at_its_own_address_and_through_the_proxy(service):
    for headers in (
        {"host": "localhost:8080", "origin": "http://localhost:8080", "sec-fetch-site": "same-origin"},
        {"host": "localhost:8080", "origin": "http://localhost:8080"},  # a browser from before 2023
    ):
        assert (await service.post({}, **headers)).status_code == 200


async def test_a_body_is_bounded(service):
    answer = await service.http.post(
        "/ask", content=b" " * (1 << 20) + b"{}", headers={"content-type": "application/json"}
    )
    assert answer.status_code == 413


async def test_there_is_a_page_to_try_it_and_a_health_check(service):
    page = await service.http.get("/")
    assert "Servers: a, b." in page.text
    assert (await service.http.get("/health")).json() == {"status": "ok"}
    assert service.cloud.requests == []


# --- the environment ------------------------------------------------------------------------------------


def test_the_environment_names_servers_and_a_sidecar_needs_no_audience():
    servers = {"a": {"url": f"{A}/mcp", "audience": A}, "near": {"url": "http://localhost:8081/mcp"}}
    settings = load_settings({"MCP_SERVERS": json.dumps(servers), "PORT": "9000", "LOG_LEVEL": ""})
    assert settings.port == 9000
    assert settings.servers["a"].audience == A
    assert settings.servers["near"].audience is None
    assert settings.origins == ()
    variables = load_settings({"MCP_SERVERS": "{}", "MCP_CLIENT_ORIGINS": "https://a.dev, https://b.dev:8443"})
    assert variables.origins == ("https://a.dev", "https://b.dev:8443")


def test_a_server_in_the_mesh_is_called_in_the_clear_because_no_token_goes_along():
    settings = load_settings({"MCP_SERVERS": '{"a": {"url": "http://mcp-a"}}'})
    assert settings.servers["a"].url == "http://mcp-a/mcp"
    assert settings.servers["a"].target.origin == "http://mcp-a"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "MCP_SERVERS: "),
        ({"MCP_SERVERS": "nonsense"}, "MCP_SERVERS: "),
        ({"MCP_SERVERS": '{"a": {"url": "http://elsewhere/mcp", "audience": "https://a"}}'}, "Use https://elsewhere"),
        ({"MCP_SERVERS": '{"a": {"uri": "x"}}'}, "MCP_SERVERS.a.uri: "),
        ({"MCP_SERVERS": "{}", "PORT": "0"}, "PORT: "),
        ({"MCP_SERVERS": "{}", "MCP_CLIENT_ORIGINS": "*"}, "MCP_CLIENT_ORIGINS: '*' is not an origin"),
    ],
)
def test_a_mistake_in_the_environment_is_named_by_its_variable(environ, message):
    with pytest.raises(SettingsError, match=r"^") as raised:
        load_settings(environ)
    assert message in str(raised.value)
