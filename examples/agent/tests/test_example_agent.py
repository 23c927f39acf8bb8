"""Tests the agent of the framework on PYTHONPATH, with servers in memory and the errors of Google's front end."""

import contextlib
import json
import time

import httpx2
import pytest
from agent import Agent
from main import build_app, main
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from scripted import ScriptedModel

from mcpfleet.service import CalledServer, HttpClients, connections
from mcpfleet.tokens import IdToken

ME = "serviceAccount:agent@acme.iam.gserviceaccount.com"
HTML = {"content-type": "text/html"}
EXPIRED = {**HTML, "www-authenticate": 'Bearer error="invalid_token"'}

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


class Clock:
    """A clock in Unix time that only tests move."""

    def __init__(self):
        self.now = time.time()

    def __call__(self):
        return self.now


class Account:
    """A service account with numbered tokens that are valid for an hour."""

    name = "metadata server"
    any_audience = True
    issues_fresh_tokens = True

    def __init__(self, clock):
        self.clock, self.count = clock, 0

    def fetch(self, audience):
        self.count += 1
        return IdToken(f"{self.count}|{audience}", self.clock() + 3600, ME, audience)


class Cloud(httpx2.AsyncBaseTransport):
    """The services by host; requests whose body contains `on` get one of `answers` first, if there are any."""

    def __init__(self, apps):
        self.ways = {host: httpx2.ASGITransport(app) for host, app in apps.items()}
        self.answers, self.on, self.requests, self.refused = [], b"", [], set()

    async def handle_async_request(self, request):
        self.requests.append(request)
        token = request.headers.get("x-serverless-authorization", "")
        if token in self.refused or not token.endswith(f"|https://{request.url.host}"):
            return httpx2.Response(401, headers=EXPIRED)
        if self.answers and self.on in request.content:
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer
        return await self.ways[request.url.host].handle_async_request(request)

    def messages(self, method):
        parsed = [(request, json.loads(request.content)) for request in self.requests if request.content]
        return [(request, message) for request, message in parsed if message["method"] == method]


def mcp_server(name, world):
    server = MCPServer(name)

    @server.tool()
    def add(a: int, b: int) -> int:
        """Add two whole numbers."""
        return a + b

    @server.tool()
    def sleep_an_hour() -> str:
        """Let an hour pass."""
        world.clock.now += 3600
        return "slept"

    @server.tool()
    def fail() -> str:
        """A tool that fails."""
        raise ToolError("the disk is full")

    return server


@pytest.fixture
async def world():
    """The agent (`world.ask(text)` returns its HTTP response), with its cloud, account and clock."""

    class World:
        clock = Clock()
        account = Account(clock)

        async def sleep(self, seconds):
            self.clock.now += seconds

        async def ask(self, question, **headers):
            return await self.http.post("/ask", json={"question": question}, headers=headers)

    world = World()
    async with contextlib.AsyncExitStack() as stack:
        apps, servers = {}, {}
        for name in ("one", "two-b"):
            server = mcp_server(name, world)
            host = f"mcp-{name}-1.europe-west1.run.app"
            apps[host] = server.streamable_http_app(stateless_http=True, json_response=True, host="0.0.0.0")  # noqa: S104
            await stack.enter_async_context(server.session_manager.run())
            servers[name] = CalledServer(url=f"https://{host}/mcp", audience=f"https://{host}")
        world.cloud = Cloud(apps)
        pool = connections(60, world.cloud, world.sleep)
        clients = {
            name: HttpClients(server, identity=world.account, pool=pool, clock=world.clock)
            for name, server in servers.items()
        }
        agent = Agent(ScriptedModel(), servers, clients, 20)
        stack.push_async_callback(agent.aclose)
        http = httpx2.AsyncClient(transport=httpx2.ASGITransport(build_app(agent, clients)), base_url="http://agent")
        world.http = await stack.enter_async_context(http)
        yield world


async def test_the_tool_that_the_model_chooses_is_called_with_a_token_for_its_server(world):
    answer = await world.ask('one_add {"a": 1, "b": 2}\ntwo-b_add {"a": 30, "b": 4}')
    assert answer.status_code == 200
    first, second = answer.json()["answer"].splitlines()
    assert "3" in first
    assert "34" in second
    calls = [request for request, _ in world.cloud.messages("tools/call")]
    assert [request.headers["x-serverless-authorization"].partition("|")[2] for request in calls] == [
        f"https://{request.url.host}" for request in calls
    ]
    assert len({request.url.host for request in calls}) == 2


async def test_it_says_of_each_server_whether_it_reaches_it_and_calls_nothing(world):
    assert (await world.http.get("/servers/one")).json() == {"server": "one", "tools": 3}
    assert (await world.http.get("/servers/three")).status_code == 404
    assert not world.cloud.messages("tools/call")


async def test_a_tool_that_is_not_there_is_not_called(world):
    answer = (await world.ask("one_subtract {}")).json()["answer"]
    assert "There is no tool one_subtract" in answer
    assert "two-b_add" in answer
    assert world.cloud.messages("tools/call") == []


async def test_a_session_outlives_its_token(world):
    answer = await world.ask('one_sleep_an_hour {}\none_add {"a": 1, "b": 2}')
    assert "3" in answer.json()["answer"].splitlines()[1]
    asleep, added = (request for request, _ in world.cloud.messages("tools/call"))
    assert asleep.headers["x-serverless-authorization"] != added.headers["x-serverless-authorization"]
    initializations = [*world.cloud.messages("initialize"), *world.cloud.messages("server/discover")]
    assert len(initializations) == 2, "one session with each server"


async def test_a_token_that_is_refused_on_the_way_is_replaced(world):
    await world.ask('one_add {"a": 1, "b": 2}')
    world.cloud.refused = {request.headers["x-serverless-authorization"] for request in world.cloud.requests}
    world.clock.now += 100
    assert "3" in (await world.ask('one_add {"a": 1, "b": 2}')).json()["answer"]


async def test_cold_starts_are_waited_for(world):
    full = httpx2.Response(429, headers={"content-type": "text/plain"}, text="Rate exceeded.")
    world.cloud.answers = [httpx2.ConnectError("refused"), full] * 2
    started = world.clock.now
    assert "3" in (await world.ask('one_add {"a": 1, "b": 2}')).json()["answer"]
    assert world.clock.now > started


@pytest.mark.parametrize(("status", "said"), [(403, "roles/run.invoker"), (404, "has no such service")])
async def test_a_call_that_is_refused_is_told_to_the_model_and_the_session_goes_on(world, status, said):
    world.cloud.answers, world.cloud.on = [httpx2.Response(status, headers=HTML)], b"tools/call"
    first, second = (
        (await world.ask('one_add {"a": 1, "b": 2}\none_add {"a": 1, "b": 2}')).json()["answer"].splitlines()
    )
    assert said in first
    assert "3" in second
    initializations = [*world.cloud.messages("initialize"), *world.cloud.messages("server/discover")]
    assert len(initializations) == 2


async def test_a_call_that_broke_off_is_not_made_twice(world):
    world.cloud.answers, world.cloud.on = [httpx2.ReadError("reset")], b"tools/call"
    answer = (await world.ask('one_add {"a": 1, "b": 2}')).json()["answer"]
    assert "The server may have handled the request" in answer
    assert len(world.cloud.messages("tools/call")) == 1


async def test_a_server_that_refuses_everything_is_named(world, caplog):
    class Refusing(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request):
            return httpx2.Response(403, headers=HTML)

    world.cloud.ways["mcp-one-1.europe-west1.run.app"] = Refusing()
    answer = await world.ask('one_add {"a": 1, "b": 2}')
    assert f"{ME} may not call https://mcp-one-1.europe-west1.run.app" in answer.text + caplog.text


async def test_a_tool_that_fails_is_told_to_the_model(world):
    assert "the disk is full" in (await world.ask("one_fail {}")).json()["answer"]


async def test_what_the_agent_does_belongs_to_the_questions_trace(world):
    parents = [f"00-{number:032x}-00000000000000aa-01" for number in (1, 2)]
    for parent in parents:
        await world.ask('one_add {"a": 1, "b": 2}', traceparent=parent)
    calls = world.cloud.messages("tools/call")
    assert [request.headers["traceparent"] for request, _ in calls] == parents
    trace_ids = [message["params"]["_meta"]["traceparent"].split("-")[1] for _, message in calls]
    assert trace_ids == [parent.split("-")[1] for parent in parents]


@pytest.mark.parametrize(
    ("body", "said"), [("nonsense", "the body: "), ("{}", "question: Field required"), ('{"q": 1}', "q: Extra")]
)
async def test_a_question_that_is_none_is_refused_with_the_reason(world, body, said):
    answer = await world.http.post("/ask", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert said in answer.json()["error"]


async def test_there_is_a_health_check(world):
    assert (await world.http.get("/health")).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MCP_SERVERS": '{"a": {"uri": "x"}}'}, "MCP_SERVERS.a.uri: "),
        ({"MCP_SERVERS": "{}", "MCP_TIMEOUT": "long"}, "MCP_TIMEOUT: 'long' is not a number of seconds"),
    ],
)
def test_a_mistake_in_the_environment_is_named(monkeypatch, capsys, environment, said):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main() == 2
    assert said in json.loads(capsys.readouterr().out.splitlines()[-1])["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({"origin": "https://evil.dev"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
    ],
)
async def test_a_page_of_somebody_else_asks_nothing(world, headers, status):
    all_headers = {"host": "localhost:8080", "content-type": "application/json", **headers}
    answer = await world.http.post("/ask", content='{"question": "add 1 and 2"}', headers=all_headers)
    assert (answer.status_code, world.cloud.requests) == (status, [])
