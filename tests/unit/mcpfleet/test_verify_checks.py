"""`mcpfleet verify`, and `./dev verify`, against a server in memory behind a front door that makes each mistake."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import httpx2
import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import Tool, ToolAnnotations

from mcp_server.app import build_server
from mcp_server.hosting import build_app
from mcp_server.settings import Settings
from mcpfleet.harmless import arguments, callable_tool
from mcpfleet.stack import Server
from mcpfleet.target import Target
from mcpfleet.tokens import IdToken
from mcpfleet.verify import ANY_TOOL, Callers, Wishes, check

URL = "http://127.0.0.1:8080"
SERVER = Server("echo", Target.parse(f"{URL}/mcp"), URL, (), {})
ANONYMOUS = "without a token: 403"
AUDIENCE = "with a token for another audience: 401"
STRANGER = "as a member who is no invoker: 403"
LEGACY = "as an invoker, protocol legacy: tools listed and one called, no redirect"
MODERN = "as an invoker, protocol 2026-07-28: tools listed and one called, no redirect"


ANY = Wishes(call=ANY_TOOL)

# What the TypeScript SDK 1.30 answers.
TOO_NEW = b"""{"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message":
    "Bad Request: Unsupported protocol version: 2026-07-28 (supported versions: 2025-11-25)"}}"""


@dataclass(frozen=True)
class Person:
    any_audience = True
    mints = False

    name: str

    def fetch(self, audience):
        return IdToken(value=f"{self.name}|{audience}", expires_at=2**40, audience=audience)


PEOPLE = Callers(invoker=Person("ada"), stranger=Person("bob"), elsewhere=Person("deployer"))


@dataclass(frozen=True)
class FrontDoor:
    """Answers as Cloud Run's does, but for what it is told to do wrong."""

    app: object
    anonymous: int = 403
    wrong_audience: int = 401
    stranger: int = 403
    redirect: int | None = None
    refused_revision: str | None = None
    refusal: bytes = b""
    denied: bool = False
    seen: list = field(default_factory=list)

    async def __call__(self, scope, receive, send):
        headers = {key.decode().lower(): value.decode() for key, value in scope["headers"]}
        self.seen.append(headers)
        name, _, audience = headers.get("x-serverless-authorization", "").removeprefix("Bearer ").partition("|")
        answer, location = 200, b""
        if not name:
            answer = self.anonymous
        elif audience != URL:
            answer = self.wrong_audience
        elif name != "ada":
            answer = self.stranger
        elif self.denied:
            answer = 403
        elif self.redirect:
            answer, location = self.redirect, b"/elsewhere"
        elif self.refused_revision and headers.get("mcp-protocol-version") == self.refused_revision:
            answer = 400
        if answer == 200 and name == "ada":
            await self.app(scope, receive, send)
            return
        headers = [(b"location", location), *([(b"content-type", b"application/json")] if self.refusal else [])]
        await send({"type": "http.response.start", "status": answer, "headers": headers})
        await send({"type": "http.response.body", "body": self.refusal})


@asynccontextmanager
async def lifespan(app) -> AsyncIterator[None]:
    to_app, from_app = asyncio.Queue(), asyncio.Queue()
    task = asyncio.create_task(app({"type": "lifespan", "state": {}}, to_app.get, from_app.put))
    await to_app.put({"type": "lifespan.startup"})
    assert (await asyncio.wait_for(from_app.get(), 5))["type"] == "lifespan.startup.complete"
    try:
        yield
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await asyncio.wait_for(task, 5)


@pytest.fixture
def report(monkeypatch):
    """`report(server, **what the front door does wrong)`: what `check` finds."""
    for setting in Settings.model_fields.values():
        monkeypatch.delenv(str(setting.validation_alias), raising=False)

    def look(server=None, wishes=ANY, **wrong):
        async def run():
            app = build_app(server or build_server(Settings()), Settings())
            door = FrontDoor(app, **wrong)
            async with lifespan(app):
                found = await asyncio.wait_for(check(SERVER, PEOPLE, wishes, httpx2.ASGITransport(door)), 20)
            return replace(found, passed=sorted(found.passed)), door

        found, door = asyncio.run(run())
        assert door.seen
        return found

    return look


def test_a_server_that_does_all_it_must_passes_every_check(report):
    found = report()
    assert found.failed == []
    assert found.warned == []
    assert found.passed == sorted([ANONYMOUS, AUDIENCE, STRANGER, LEGACY, MODERN])
    assert found.first_ms > 0
    assert found.median_ms > 0


def test_a_tool_that_should_be_there_and_is_not_is_reported_with_those_that_are(report):
    found = report(wishes=Wishes(tools=["add", "subtract"]))
    said = "it does not list subtract; it lists add, echo, whoami, "
    assert [said in line for line in found.failed] == [True, True]


def test_a_tool_is_called_with_the_arguments_that_were_asked_for_and_only_then(report):
    called = []
    server = MCPServer("counting")

    @server.tool()
    def count(start: int) -> int:
        called.append(start)
        return start

    assert report(server, wishes=Wishes()).failed == []
    assert called == []
    assert report(server, wishes=Wishes(call=("count", {"start": 7}))).failed == []
    assert called == [7, 7]
    failed = report(server, wishes=Wishes(call=("cuont", {}))).failed
    assert [line.partition(": it has")[2] for line in failed] == [" no tool cuont; it lists count"] * 2


def test_what_only_some_clients_stumble_over_is_a_warning(report):
    async def app(scope, receive, send):
        if scope["path"].endswith("/"):
            await send({"type": "http.response.start", "status": 307, "headers": [(b"location", b"http://x/mcp")]})
            await send({"type": "http.response.body", "body": b""})
            return
        scope = {**scope, "headers": [one for one in scope["headers"] if one[0] != b"origin"]}
        await careless(scope, receive, send)

    careless = build_app(build_server(Settings()), Settings())

    async def run():
        async with lifespan(careless):
            return await check(SERVER, PEOPLE, ANY, httpx2.ASGITransport(FrontDoor(app)))

    found = asyncio.run(asyncio.wait_for(run(), 20))
    assert found.failed == []
    redirect, origin = found.warned
    assert redirect == f"{URL}/mcp/ redirects to http://x/mcp"
    assert "another origin" in origin


def of_access(kind):
    return replace(SERVER, output={"access": kind})


def answers(status, **headers):
    return httpx2.MockTransport(lambda _request: httpx2.Response(status, headers=headers))


@pytest.mark.parametrize(
    ("kind", "transport", "failed"),
    [
        ("oauth", answers(401, **{"www-authenticate": 'Bearer resource_metadata="https://x"'}), 0),
        ("oauth", answers(401), 1),
        ("oauth", answers(200), 1),
        ("iap", answers(302, location="https://accounts.google.com"), 0),
        ("iap", answers(200), 1),
    ],
)
def test_a_server_with_another_kind_of_door_is_refused_in_its_own_way(kind, transport, failed):
    found = asyncio.run(check(of_access(kind), PEOPLE, ANY, transport))
    assert len(found.failed) == failed
    assert "not checked" in found.warned[0]


def test_a_server_inside_its_network_is_not_there_from_outside_and_checked_as_any_other_from_inside():
    inside = replace(SERVER, output={"access": "iam", "reached": "network"})
    found = asyncio.run(check(inside, PEOPLE, ANY, answers(404)))
    assert (found.passed, found.failed) == (["from outside its network: 404"], [])
    assert "not checked" in found.warned[0]
    open_to_all = asyncio.run(check(inside, PEOPLE, ANY, answers(200)))
    assert any(line.startswith("without a token: 403") for line in open_to_all.failed)


def test_a_public_server_is_called_without_a_token():
    async def run():
        app = build_app(build_server(Settings()), Settings())
        async with lifespan(app):
            return await check(of_access("public"), PEOPLE, ANY, httpx2.ASGITransport(app))

    found = asyncio.run(asyncio.wait_for(run(), 20))
    assert (len(found.passed), found.failed) == (2, [])
    assert all(line.startswith("without a token, protocol") for line in found.passed)


def test_who_is_no_invoker_is_told_whom_to_add(report):
    found = report(denied=True)
    assert [("user:EMAIL" in line, "may not call" in line) for line in found.failed] == [(True, True)] * 2


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"anonymous": 200}, f"{ANONYMOUS}: the answer was 200"),
        ({"anonymous": 401}, f"{ANONYMOUS}: the answer was 401"),
        ({"wrong_audience": 200}, f"{AUDIENCE}: the answer was 200"),
        ({"stranger": 200}, f"{STRANGER}: the answer was 200"),
        ({"stranger": 500}, f"{STRANGER}: the answer was 500"),
    ],
)
def test_whoever_is_let_in_by_mistake_is_reported_alone(report, wrong, line):
    assert report(**wrong).failed == [line]


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_reported_with_where_it_leads(report, status):
    assert report(redirect=status).failed == [
        f"{words}: redirected: {status} to /elsewhere" for words in (LEGACY, MODERN)
    ]


def test_a_server_that_is_older_than_the_new_revision_and_says_so_is_a_warning(report):
    found = report(refused_revision="2026-07-28", refusal=TOO_NEW)
    assert found.failed == []
    assert "it does not speak 2026-07-28; clients fall back to the revision before" in found.warned


def test_a_server_that_does_not_speak_the_new_revision_fails_that_check_only(report):
    found = report(refused_revision="2026-07-28")
    assert [line.startswith(f"{MODERN}: ") for line in found.failed] == [True]


@pytest.fixture
def broken():
    server = MCPServer("broken")

    @server.tool()
    def explode(count: int) -> int:
        raise ToolError("no database")

    return server


def test_a_tool_that_fails_with_what_the_user_gave_it_is_reported_by_name(report, broken):
    said = "the tool explode failed: Error executing tool explode: no database"
    found = report(broken, wishes=Wishes(call=("explode", {"count": 1})))
    assert found.failed == [f"{words}: {said}" for words in (LEGACY, MODERN)]


def test_a_tool_that_refuses_made_up_arguments_is_a_warning_since_the_call_has_gone_all_the_way(report, broken):
    found = report(broken)
    assert found.failed == []
    said = (
        "the tool explode failed: Error executing tool explode: no database (with the made-up arguments {'count': 1})"
    )
    assert said in found.warned


def test_a_server_without_a_tool_that_can_be_called_is_a_warning(report):
    server = MCPServer("demanding")

    @server.tool()
    def search(filters: dict[str, str]) -> int:
        return len(filters)

    found = report(server)
    assert found.failed == []
    assert "it has no tool that can be called with numbers and words, so none was" in found.warned


def test_a_server_that_cannot_be_reached_fails_every_check():
    def refuse(_request):
        raise httpx2.ConnectError("connection refused")

    found = asyncio.run(check(SERVER, PEOPLE, ANY, httpx2.MockTransport(refuse)))
    assert found.passed == []
    assert len(found.failed) == 5
    assert all("connection refused" in line for line in found.failed)


# Which tool is called, and with what.

keywords = st.dictionaries(
    st.sampled_from(["type", "properties", "required", "minimum", "enum", "pattern", "anyOf", "title", "$ref", "not"]),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.sampled_from(["string", "integer", "number", "boolean", "object", "a", "b"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["a", "b", "type", "const"]), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    max_size=5,
)
plain_arguments = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["string", "integer", "number", "boolean", "object", "array", "null"])
            | st.lists(st.sampled_from(["string", "null"]), min_size=1, unique=True),
            "enum": st.lists(st.integers() | st.text(max_size=3), min_size=1, max_size=2),
            "minimum": st.integers(-9, 9),
            "maxLength": st.integers(0, 9),
            "pattern": st.sampled_from(["^x$", "."]),
            "title": st.text(max_size=5),
            "default": st.integers(),
        },
    ),
)


@given(keywords)
@example({"properties": None, "required": ["a"]})
@example({"properties": ["a"], "required": ["a"]})
@example({"properties": {}, "required": 5})
@example({"properties": {}, "required": [["a"]]})
def test_no_schema_makes_the_choice_of_arguments_raise(schema):
    found = arguments(schema)
    assert found is None or isinstance(found, dict)


@given(plain_arguments, st.data())
def test_arguments_are_valid_by_their_schema_wherever_there_are_any(properties, data):
    names = data.draw(st.lists(st.sampled_from([*properties, "unknown"]), unique=True))
    schema = {"type": "object", "properties": properties, "required": names}
    found = arguments(schema)
    if found is not None:
        assert set(found) == set(names)
        jsonschema.validate(found, schema)


@given(st.dictionaries(st.text(max_size=5), st.sampled_from(["string", "integer", "number", "boolean"]), max_size=4))
def test_plain_required_arguments_are_all_given(kinds):
    schema = {
        "type": "object",
        "properties": {name: {"type": kind} for name, kind in kinds.items()},
        "required": [*kinds],
    }
    found = arguments(schema)
    assert found is not None
    jsonschema.validate(found, schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"type": ["string", "null"]}}, "required": ["a"]},
        {"properties": {"a": {"type": "string", "format": "uri"}}, "required": ["a"]},
        {"properties": {"a": True}, "required": ["a"]},
        {"properties": {}, "minProperties": 1},
        {"properties": {}, "anyOf": [{"required": ["a"]}]},
        {"$ref": "#/$defs/x"},
    ],
)
def test_a_schema_with_more_conditions_than_types_gives_no_arguments(schema):
    assert arguments({"type": "object", **schema}) is None


def tool(name, *, required=(), **hints):
    schema = {"type": "object", "properties": {one: {"type": "object"} for one in required}, "required": [*required]}
    return Tool(name=name, input_schema=schema, annotations=ToolAnnotations(**hints) if hints else None)


@pytest.mark.parametrize(
    ("tools", "chosen"),
    [
        ([tool("write"), tool("read", read_only_hint=True)], "read"),
        ([tool("wipe", destructive_hint=True), tool("write")], "write"),
        ([tool("wipe", destructive_hint=True)], None),
        ([tool("query", required=["filter"]), tool("first"), tool("second")], "first"),
        ([], None),
    ],
)
def test_a_tool_that_reads_comes_first_and_one_that_destroys_is_never_called(tools, chosen):
    found = callable_tool(tools)
    assert (found and found[0]) == chosen
