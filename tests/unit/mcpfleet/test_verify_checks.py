"""`mcpfleet verify`, and `./dev verify`, against a server in memory behind a front door that makes each mistake."""

import asyncio
import gc
import io
import json
import warnings
from dataclasses import dataclass, field, replace

import httpx2
import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared.exceptions import MCPError
from mcp_types import ToolAnnotations

from mcp_server.app import build_server
from mcpfleet import client_checks
from mcpfleet.stack import DeployedClient, DeployedServer
from mcpfleet.target import Target
from mcpfleet.tokens import IdToken
from mcpfleet.verify import ANY_TOOL, Callers, CheckOptions, check
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings
from tests.unit.asgi import lifespan

URL = "http://127.0.0.1:8080"
SERVER = DeployedServer("echo", Target.parse(f"{URL}/mcp"), URL, (), {})
ANONYMOUS = "without a token: 403"
AUDIENCE = "with a token for another audience: 401"
STRANGER = "as a member who is no invoker: 403"
MADE_UP = "with a made-up token: 401"
LEGACY = "as an invoker, protocol legacy: tools listed and whoami called, no redirect"
MODERN = "as an invoker, protocol 2026-07-28: tools listed and whoami called, no redirect"
LISTED = [f"as an invoker, protocol {protocol}: tools listed, no redirect" for protocol in ("legacy", "2026-07-28")]


ANY = CheckOptions(call=ANY_TOOL)
POST = f"POST {URL}/mcp returned"

# What the TypeScript SDK 1.30 answers.
TOO_NEW = b"""{"jsonrpc": "2.0", "id": null, "error": {"code": -32000, "message":
    "Bad Request: Unsupported protocol version: 2026-07-28 (supported versions: 2025-11-25)"}}"""


@dataclass(frozen=True)
class Person:
    any_audience = True
    issues_fresh_tokens = False

    name: str

    def fetch(self, audience):
        return IdToken(value=f"{self.name}|{audience}", expires_at=2**40, audience=audience)


class Fixed(Person):
    """Has tokens for an audience of its own."""

    any_audience = False

    def fetch(self, audience):
        return super().fetch("another-client")


PEOPLE = Callers(invoker=Person("ada"), not_invoker=Person("bob"), any_audience=Person("deployer"))


@dataclass(frozen=True)
class FrontDoor:
    """A front end like Cloud Run's, except for the mistakes that a test sets."""

    app: object
    anonymous: int = 403
    wrong_audience: int = 401
    made_up: int = 401
    not_invoker: int = 403
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
        elif name not in ("ada", "bob", "deployer"):
            answer = self.made_up
        elif audience != URL:
            answer = self.wrong_audience
        elif name != "ada":
            answer = self.not_invoker
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


@pytest.fixture
def report(monkeypatch):
    """`report(server, **what the front door does wrong)`: what `check` finds."""
    for setting in Settings.model_fields.values():
        monkeypatch.delenv(str(setting.validation_alias), raising=False)

    def look(server=None, options=ANY, instead=None, **wrong):
        async def run():
            app = instead or build_app(server or build_server(Settings()), Settings())
            front_door = FrontDoor(app, **wrong)
            async with lifespan(app):
                result = await asyncio.wait_for(check(SERVER, PEOPLE, options, httpx2.ASGITransport(front_door)), 20)
            return replace(result, passed=sorted(result.passed)), front_door

        result, front_door = asyncio.run(run())
        assert front_door.seen
        return result

    return look


def test_a_correct_server_passes_every_check(report):
    result = report()
    assert result.failed == []
    assert result.warned == []
    assert result.unasked == []
    assert result.passed == sorted([ANONYMOUS, MADE_UP, AUDIENCE, STRANGER, LEGACY, MODERN])
    assert result.first_ms > 0
    assert result.median_ms > 0


def test_a_missing_tool_is_reported_with_the_existing_ones(report):
    result = report(options=CheckOptions(tools=["add", "subtract"]))
    message = "it does not list subtract; it lists add, echo, whoami, "
    assert [message in line for line in result.failed] == [True, True]


def test_a_tool_is_called_with_the_given_arguments_only_on_request(report):
    called = []
    server = MCPServer("counting")

    @server.tool()
    def count(start: int) -> int:
        called.append(start)
        return start

    assert report(server, options=CheckOptions()).failed == []
    assert called == []
    assert report(server, options=CheckOptions(call=("count", {"start": 7}))).failed == []
    assert called == [7], "once: it does not say that twice is as good"
    failed = report(server, options=CheckOptions(call=("cuont", {}))).failed
    assert [line.partition(": it has")[2] for line in failed] == [" no tool cuont; it lists count"] * 2


def test_a_problem_for_only_some_clients_is_a_warning(report):
    async def app(scope, receive, send):
        if scope["path"].endswith("/"):
            await send({"type": "http.response.start", "status": 307, "headers": [(b"location", b"http://x/mcp")]})
            await send({"type": "http.response.body", "body": b""})
            return
        scope = {**scope, "headers": [header for header in scope["headers"] if header[0] != b"origin"]}
        await careless(scope, receive, send)

    careless = build_app(build_server(Settings()), Settings())

    async def run():
        async with lifespan(careless):
            return await check(SERVER, PEOPLE, ANY, httpx2.ASGITransport(FrontDoor(app)))

    result = asyncio.run(asyncio.wait_for(run(), 20))
    assert result.failed == []
    redirect, origin = result.warned
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
        ("oauth", answers(401), 3),
        ("oauth", answers(200), 3),
        ("oauth", answers(403, **{"www-authenticate": 'Bearer resource_metadata="https://x"'}), 3),
        ("iap", answers(302, location="https://accounts.google.com/o/oauth2/v2/auth"), 0),
        ("iap", answers(401, **{"x-goog-iap-generated-response": "true"}), 0),
        ("iap", answers(401), 3),
        ("iap", answers(302, location="https://accounts.google.com.evil.example/"), 3),
        ("iap", answers(302, location="/login"), 3),
        ("iap", answers(200), 3),
    ],
)
def test_each_access_mode_has_its_own_expected_refusal(kind, transport, failed):
    result = asyncio.run(check(of_access(kind), PEOPLE, ANY, transport))
    assert len(result.failed) == failed
    assert result.unasked[-1].startswith("its calls: not checked")


def test_an_internal_server_must_be_404_from_outside_and_is_checked_from_inside():
    internal_server = replace(SERVER, output={"access": "iam", "reached": "network"})
    result = asyncio.run(check(internal_server, PEOPLE, ANY, answers(404)))
    assert (result.passed, result.failed) == (["from outside its network: 404"], [])
    assert "not checked" in result.unasked[0]
    open_to_all = asyncio.run(check(internal_server, PEOPLE, ANY, answers(200)))
    assert any(line.startswith("without a token: 403") for line in open_to_all.failed)


def test_a_public_server_is_called_without_a_token():
    async def run():
        app = build_app(build_server(Settings()), Settings())
        async with lifespan(app):
            server = replace(SERVER, output={"access": "public", "public_reason": "documentation"})
            return await check(server, PEOPLE, ANY, httpx2.ASGITransport(app))

    result = asyncio.run(asyncio.wait_for(run(), 20))
    assert (len(result.passed), result.failed) == (2, [])
    assert all(line.startswith("without a token, protocol") for line in result.passed)
    assert result.warned == ["it is public: anybody may call it (documentation)"]


def test_a_caller_without_permission_is_told_which_invoker_to_add(report):
    result = report(denied=True)
    assert [("user:EMAIL" in line, "may not call" in line) for line in result.failed] == [(True, True)] * 2


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        ({"anonymous": 200}, f"{ANONYMOUS}: {POST} 200"),
        ({"anonymous": 401}, f"{ANONYMOUS}: {POST} 401"),
        ({"made_up": 200}, f"{MADE_UP}: {POST} 200"),
        ({"made_up": 403}, f"{MADE_UP}: {POST} 403"),
        ({"wrong_audience": 200}, f"{AUDIENCE}: {POST} 200"),
        ({"not_invoker": 200}, f"{STRANGER}: {POST} 200"),
        *(({"not_invoker": status}, f"{STRANGER}: {POST} {status}") for status in (302, 401, 404, 429, 500, 503)),
    ],
)
def test_an_accepted_or_uncertain_unauthorized_caller_is_reported(report, wrong, line):
    assert report(**wrong).failed == [line]


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_is_reported_with_its_target(report, status):
    assert report(redirect=status).failed == [f"{text}: redirected: {status} to /elsewhere" for text in LISTED]


def test_a_server_without_the_newest_protocol_version_is_a_warning(report):
    result = report(refused_revision="2026-07-28", refusal=TOO_NEW)
    assert result.failed == []
    assert "it does not speak 2026-07-28; clients fall back to the revision before" in result.warned


@pytest.mark.parametrize(
    "refusal",
    [
        b"",
        b"Not found",
        b'{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"Bad Request: Missing session ID"}}',
        b'{"detail":"mcp-session-id required"}',
    ],
)
def test_any_refusal_of_the_newest_protocol_version_is_only_a_note(report, refusal):
    result = report(refused_revision="2026-07-28", refusal=refusal)
    assert result.failed == []
    assert "it does not speak 2026-07-28; clients fall back to the revision before" in result.warned


def test_an_offered_but_broken_protocol_version_fails_only_its_check(report, broken_listing):
    result = report(instead=broken_listing)
    assert [line.startswith(f"{LISTED[1]}: ") for line in result.failed] == [True]


@pytest.fixture
def broken_listing():
    """A server of both revisions that lists no tools in the newer one."""
    full_app = build_app(build_server(Settings()), Settings())

    async def app(scope, receive, send):
        headers = dict(scope.get("headers", ()))
        modern = headers.get(b"mcp-protocol-version") == b"2026-07-28"
        if modern and headers.get(b"mcp-method") == b"tools/list":
            await send({"type": "http.response.start", "status": 500, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await full_app(scope, receive, send)

    return app


class Guarded:
    """A server that wants a token of its own, which Google knows nothing of."""

    def __init__(self, app, kind=b"application/json"):
        self._app, self._kind = app, kind

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and (b"authorization", b"Bearer s3same") not in scope["headers"]:
            headers = [(b"content-type", self._kind), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error":"unauthorized"}'})
        else:
            await self._app(scope, receive, send)


@pytest.mark.parametrize("kind", [b"application/json", b"text/plain"])
def test_an_oauth_server_is_distinguished_from_iam_and_checked_with_its_token(report, kind):

    def guarded():
        return Guarded(build_app(build_server(Settings()), Settings()), kind)

    wants = "401: Google accepted the caller, but the server itself requires a token. Give one with "
    failed = report(instead=guarded()).failed
    assert [line.rpartition(", no redirect: ")[2] for line in failed] == [
        f"{wants}mcpfleet verify echo --bearer-file FILE"
    ] * 2
    result = report(instead=guarded(), options=replace(ANY, bearer_token="s3same"))
    assert (result.failed, LEGACY in result.passed, MODERN in result.passed) == ([], True, True)
    assert "s3same" not in repr(replace(ANY, bearer_token="s3same"))
    wrong = report(instead=guarded(), options=replace(ANY, bearer_token="another")).failed
    assert "401: the server itself does not accept its token (--bearer-file)" in wrong[0]


class Streaming(httpx2.AsyncBaseTransport):
    """An ASGI application whose answers come piece by piece, as streams without an end do."""

    def __init__(self, app):
        self._app, self._tasks = app, []

    async def handle_async_request(self, request):
        started, pieces = asyncio.get_running_loop().create_future(), asyncio.Queue()
        body = [{"type": "http.request", "body": await request.aread(), "more_body": False}]

        async def receive():
            return body.pop() if body else await asyncio.Event().wait()

        async def send(message):
            if message["type"] == "http.response.start":
                started.set_result(message)
            else:
                pieces.put_nowait(message)

        async def read():
            fields = True
            while fields:
                message = await pieces.get()
                fields = message.get("more_body", False)
                yield message.get("body", b"")

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "root_path": ""}
        scope |= {"method": request.method, "path": request.url.path, "raw_path": request.url.raw_path}
        scope |= {"query_string": request.url.query, "server": ("127.0.0.1", 8080), "client": ("127.0.0.1", 1)}
        scope["headers"] = [(name.lower(), value) for name, value in request.headers.raw]
        self._tasks.append(asyncio.create_task(self._app(scope, receive, send)))
        start = await started
        return httpx2.Response(start["status"], headers=start["headers"], content=read())

    async def aclose(self):
        for task in self._tasks:
            task.cancel()


def test_a_legacy_only_server_is_checked_by_its_transport():
    server = replace(SERVER, target=Target.parse(f"{URL}/sse"), output={"transports": ["sse"]})
    settings = Settings(MCP_TRANSPORTS="sse")
    front_door = FrontDoor(build_app(build_server(settings), settings))

    async def run():
        async with lifespan(front_door.app):
            return await asyncio.wait_for(check(server, PEOPLE, ANY, Streaming(front_door)), 20)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # the SDK's transport leaves streams open that were cut off
        result = asyncio.run(run())
        gc.collect()
    assert result.failed == []
    assert LEGACY in result.passed
    assert not any("2026-07-28" in line for line in (*result.passed, *result.warned))


class Malformed:
    """A server whose every answer has this as its result."""

    def __init__(self, result):
        self._result = result

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            for step in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{step}.complete"})
            return
        reason = json.loads((await receive())["body"])
        result = GREETING if reason["method"] == "initialize" else self._result
        body = json.dumps({"jsonrpc": "2.0", "id": reason.get("id"), "result": result}).encode()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": body})


GREETING = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "x", "version": "1"}}


@pytest.mark.parametrize(
    ("result", "location"),
    [
        ({}, "tools"),
        ({"tools": 1}, "tools"),
        ({"tools": [1, 2, 3]}, "tools"),
        ({"tools": {"\x1b[2J\n✓ all": []}}, "tools"),
        ({"tools": [], "nextCursor": {}}, "nextCursor"),
    ],
)
def test_a_malformed_answer_is_one_line_with_its_location(report, result, location):
    failed = report(instead=Malformed(result)).failed
    assert len(failed) == 2
    assert all(line.isprintable() and len(line) < 700 for line in failed)
    assert f"a response is not valid MCP: {location}" in failed[0]


READS = ToolAnnotations(read_only_hint=True)


@pytest.fixture
def broken():
    server = MCPServer("broken")

    @server.tool(annotations=READS)
    def explode(count: int = 1) -> int:
        raise ToolError("no database")

    return server


def test_a_tool_that_fails_with_the_users_arguments_is_reported_by_name(report, broken):
    message = "the tool explode answered with an error of its own (isError): Error executing tool explode: no database"
    result = report(broken, options=CheckOptions(call=("explode", {"count": 1})))
    assert [line.partition(", no redirect: ")[2] for line in result.failed] == [message, message]


def test_a_tool_that_refuses_arguments_from_its_schema_is_a_warning(report, broken):
    result = report(broken)
    assert result.failed == []
    message = "no database (with the arguments from its schema, {})"
    assert result.warned == [
        f"the tool explode answered with an error of its own (isError): Error executing tool explode: {message}"
    ]


NONE = (
    "no tool was called: none has readOnlyHint: true and a schema with values for its required arguments;"
    " name one with --call echo/TOOL"
)


@pytest.mark.parametrize(
    "hints",
    [
        None,
        ToolAnnotations(title="Cancel"),
        ToolAnnotations(read_only_hint=False),
        ToolAnnotations(destructive_hint=False),
        ToolAnnotations(idempotent_hint=True, destructive_hint=False),
    ],
)
def test_a_tool_without_a_read_only_hint_is_listed_and_never_called(report, hints):
    cancelled = []
    server = MCPServer("orders")

    @server.tool(annotations=hints)
    def cancel_order(order: str = "1") -> str:
        cancelled.append(order)
        return order

    result = report(server)
    assert (result.failed, result.unasked, cancelled) == ([], [NONE], [])
    assert set(LISTED) < set(result.passed)


def test_only_an_idempotent_tool_is_called_in_both_protocol_versions(report):
    called = []
    server = MCPServer("orders")

    @server.tool(annotations=ToolAnnotations(idempotent_hint=True))
    def settle(order: int) -> int:
        called.append(order)
        return order

    assert report(server, options=CheckOptions(call=("settle", {"order": 7}))).failed == []
    assert called == [7, 7]


def test_verify_requests_only_the_list_of_tools(report):
    touched = []
    server = MCPServer("busy")

    @server.resource("job://next")
    def job() -> str:
        touched.append("resource")
        return ""

    @server.prompt()
    def order() -> str:
        touched.append("prompt")
        return ""

    result = report(server)
    assert (result.failed, touched) == ([], [])


def test_an_unreachable_server_fails_every_check():
    def refuse(_request):
        raise httpx2.ConnectError("connection refused")

    result = asyncio.run(check(SERVER, PEOPLE, ANY, httpx2.MockTransport(refuse)))
    assert result.passed == []
    assert len(result.failed) == 6
    assert all("connection refused" in line for line in result.failed)


# Every way in, and clients.


class Doors:
    """Answers as a front end that lets in ada alone; behind it, what each path of an app answers."""

    def __init__(self, refusal=403, app=None, **otherwise):
        self.seen = []
        self.refusal = refusal
        self.app = {"/": httpx2.Response(200), **(app or {})}
        self.otherwise = otherwise

    def __call__(self, request):
        credentials = request.headers.get("x-serverless-authorization", "") or request.headers.get("authorization", "")
        name, _, audience = credentials.removeprefix("Bearer ").partition("|")
        reason = f"{request.method} {request.url}"
        self.seen.append((request.method, str(request.url), request.content, name))
        if name == "ada" and audience in {"http://127.0.0.1:8081", CLI} and reason not in self.otherwise:
            answer = self.app.get(request.url.path, httpx2.Response(404))
            if isinstance(answer, Exception):
                raise answer
            return httpx2.Response(answer.status_code, headers=answer.headers, content=answer.content)
        status = self.refusal if not name or name == "bob" else 401
        return httpx2.Response(self.otherwise.get(reason, status), headers={"x-goog-iap-generated-response": "true"})


CLI = "4711-cli.apps.googleusercontent.com"


def look(service, front_door, callers=PEOPLE):
    return asyncio.run(check(service, callers, None, httpx2.MockTransport(front_door)))


BESIDE = {"url": "http://127.0.0.1:8081", "calls": ["echo", "toolbox"], "access": "iam"}


def client(**output):
    return DeployedClient("assistant", Target.parse(BESIDE["url"]), (), {**BESIDE, **output})


REFUSALS = [ANONYMOUS, MADE_UP, AUDIENCE, STRANGER]
WELL = "as an invoker: GET / returned 200"


def says(server, status=200, **fields):
    return {f"/servers/{server}": httpx2.Response(status, json={"server": server, **fields})}


REACHES = {**says("echo", tools=12), **says("toolbox", tools=1)}


def test_a_correct_client_refuses_unauthorized_callers_and_reaches_its_servers():
    front_door = Doors(app=REACHES)
    result = look(client(), front_door)
    through = [f"through it, {name} answers: {count} tools listed" for name, count in (("echo", 12), ("toolbox", 1))]
    assert result.passed == [*REFUSALS, WELL, *through]
    assert (result.failed, result.warned, result.unasked) == ([], [], [])
    assert {(method, url) for method, url, _, caller in front_door.seen if caller != "ada"} == {
        ("GET", "http://127.0.0.1:8081/"),
        ("POST", "http://127.0.0.1:8081/ask"),
        ("POST", "http://127.0.0.1:8081/"),
    }
    assert {method for method, _, _, caller in front_door.seen if caller == "ada"} == {"GET"}, (
        "its answers may cost and act"
    )


@pytest.mark.parametrize(
    ("echo", "wrong"),
    [
        (
            says("echo", 502, error={"status": 403, "message": "bot may not call it."}),
            "echo does not answer: 403: bot may not call it.",
        ),
        (
            says("echo", 502, error={"status": None, "message": "Cannot reach it: \x1b[2Jrefused."}),
            "echo does not answer: Cannot reach it: \\u001b[2Jrefused.",
        ),
        (
            says("echo", 404, error={"message": "this service does not call it; it calls none"}),
            "echo does not answer: this service does not call it; it calls none",
        ),
        (says("echo", 502, error="x"), "echo does not answer: no reason given"),
        (says("echo", 200, tools="many"), "echo does not answer: no reason given"),
        (
            {"/servers/echo": httpx2.Response(503, headers={"content-type": "text/html"})},
            "echo could not be checked: GET /servers/echo returned 503: the service could not start",
        ),
        ({"/servers/echo": httpx2.ReadTimeout("gone")}, "echo could not be checked: gone"),
        ({"/servers/echo": httpx2.ConnectError("refused")}, "echo could not be checked: refused"),
    ],
)
def test_a_client_that_cannot_reach_one_of_its_servers_fails(echo, wrong):
    result = look(client(), Doors(app={**REACHES, **echo}))
    (failed,) = result.failed
    assert failed.startswith(f"through it, {wrong}")
    assert "through it, toolbox answers: 1 tools listed" in result.passed


SAID = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just({}) | st.just([])
ERRORS = st.fixed_dictionaries({}, optional={"status": SAID, "message": SAID}) | SAID
TALK = st.fixed_dictionaries({}, optional={"server": st.just("echo") | SAID, "tools": SAID, "error": ERRORS})
BODIES = st.binary(max_size=20) | (TALK | SAID).map(lambda value: json.dumps(value).encode())
KINDS = st.sampled_from(["application/json", "text/html", "text/event-stream", "", "x"])


@given(
    st.integers(200, 599),
    KINDS,
    BODIES,
    st.sampled_from(["/", "https://accounts.google.com/", "//", "\x1b", "http://["]),
)
def test_each_server_of_a_client_has_one_result_for_any_response(status, kind, body, location):
    answer = httpx2.Response(status, headers={"content-type": kind, "location": location}, content=body)
    result = look(client(calls=["echo"]), Doors(app={"/servers/echo": answer}))
    lines = [line for line in (*result.passed, *result.failed, *result.unasked) if "echo" in line]
    assert len(lines) == 1
    oauth = status < 300 and lines[0].startswith("through it, echo answers: ")
    assert oauth is (lines[0] in result.passed)


def test_a_client_that_never_reports_a_server_fails_at_the_timeout(monkeypatch):
    monkeypatch.setattr(client_checks, "SECONDS", 1.0)  # also the limit of the answers that do come

    class Dead(httpx2.MockTransport):
        async def handle_async_request(self, request):
            if request.url.path == "/servers/echo":
                await asyncio.Event().wait()
            return await super().handle_async_request(request)

    result = asyncio.run(check(client(), PEOPLE, None, Dead(Doors(app=REACHES))))
    assert result.failed == ["through it, echo could not be checked: no answer within 1 s"]


class Never(httpx2.AsyncBaseTransport):
    async def handle_async_request(self, request):
        await asyncio.Event().wait()


def test_no_check_takes_longer_than_the_configured_timeout():
    result = asyncio.run(check(SERVER, PEOPLE, CheckOptions(seconds=0.01), Never()))
    assert len(result.failed) == 6
    assert all(line.endswith(": it did not end within 0.01 s (--timeout)") for line in result.failed)
    result = asyncio.run(check(client(), PEOPLE, CheckOptions(seconds=0.01), Never()))
    assert "through it, echo could not be checked: no answer within 0.01 s" in result.failed


def test_an_undecidable_internal_server_takes_no_longer_than_one_check(monkeypatch):
    monkeypatch.setenv("MCPFLEET_CHECK_SECONDS", "0.1")
    internal_server = replace(SERVER, output={"access": "iam", "reached": "network"})
    assert (
        asyncio.run(check(internal_server, PEOPLE, None, Never())).failed[0].endswith("0.1 s (MCPFLEET_CHECK_SECONDS)")
    )


@pytest.mark.parametrize(
    "other",
    [
        httpx2.Response(404),
        httpx2.Response(404, json={"detail": "Not Found"}),
        httpx2.Response(200, html="<title>an app of one page</title>"),
        httpx2.Response(405),
    ],
)
def test_a_client_without_a_report_of_its_servers_passes(other):
    result = look(client(calls=["echo"]), Doors(app={"/servers/echo": other}))
    assert result.failed == []
    assert result.unasked == ["through it, echo: not checked; it has no GET /servers/NAME (mcpfleet.reach)"]


@pytest.mark.parametrize(
    ("output", "path", "status", "well"),
    [
        ({"health_path": "/health"}, "/health", 200, True),
        ({"health_path": "/health"}, "/health", 404, False),
        ({"health_path": "/health"}, "/health", 500, False),
        ({}, "/", 404, True),
        ({}, "/", 302, False),
        ({}, "/", 403, False),
        ({}, "/", 500, False),
    ],
)
def test_an_invoker_gets_a_clients_health(output, path, status, well):
    result = look(client(calls=[], **output), Doors(app={path: httpx2.Response(status)}))
    text = f"as an invoker: GET {path} returned {status}"
    assert any(line.startswith(text) for line in (result.passed if well else result.failed))
    assert bool(result.failed) is not well


@pytest.mark.parametrize(
    ("output", "invoker", "reason"),
    [
        ({"program_audience": CLI}, Person("ada"), True),
        ({"program_audience": CLI}, None, "no identity on this machine may call it"),
        ({"program_audience": None}, Person("ada"), "access.iap has no programmatic_clients"),
        ({"program_audience": CLI}, Fixed("ada"), f"IAP requires a token for {CLI}, and your identity cannot get one"),
    ],
)
def test_with_iap_a_client_is_checked_with_a_token_for_iap(output, invoker, reason):
    front_door = Doors(app=REACHES)
    result = look(client(access="iap", **output), front_door, replace(PEOPLE, invoker=invoker))
    assert result.failed == []
    reached = [line for line in result.passed if line.startswith("through it")]
    assert len(reached) == (2 if reason is True else 0)
    assert reason is True or any(reason in line for line in result.unasked)
    refusal_text = "as a member whom IAP does not let through: refused by IAP"
    assert (refusal_text in result.passed) is bool(output["program_audience"])


def test_with_iap_a_server_is_checked_with_a_token_for_iap():
    front_door = Doors()
    server = replace(SERVER, output={"access": "iap", "program_audience": CLI})
    result = look(server, front_door)
    assert "ada" in {caller for _, _, _, caller in front_door.seen}
    assert [line.partition(":")[0] for line in result.failed] == [
        "as an invoker, protocol legacy",
        "as an invoker, protocol 2026-07-28",
    ], "there is no MCP behind this door"


@pytest.mark.parametrize("front_door", ["GET http://127.0.0.1:8081/", "POST http://127.0.0.1:8081/ask"])
@pytest.mark.parametrize("status", [200, 302, 400, 404, 405, 422, 500, 503])
def test_a_client_that_anyone_can_or_may_call_fails(front_door, status):
    result = look(client(), Doors(**{front_door: status}))
    assert not set(result.passed) & set(REFUSALS)
    assert result.failed[0] == f"{ANONYMOUS}: {front_door} returned {status}"


def test_a_client_is_probed_only_with_gets_and_invalid_bodies():
    front_door = Doors(**{"GET http://127.0.0.1:8081/": 200})
    assert len([line for line in look(client(), front_door).failed if ": GET http" in line]) == 4
    assert {method for method, _, _, _ in front_door.seen} == {"GET"}, "an open page is found out by looking"
    front_door = Doors()
    look(client(), front_door)
    assert {content for method, _, content, _ in front_door.seen if method == "POST"} == {b"?"}


def test_a_client_that_does_not_respond_fails():
    def silent(_request):
        raise httpx2.ReadTimeout("")

    result = look(client(), silent)
    assert (result.passed, len(result.failed)) == ([], 4 + 1 + 2)


def test_a_public_client_is_reported_with_the_servers_that_it_exposes():
    result = look(client(access="public", public_reason="a demonstration"), Doors(refusal=200))
    assert (result.passed, result.failed) == (["without a token: GET / returned 200"], [])
    assert result.warned == [
        "it is public: anybody may call it, and through it echo, toolbox as its account (a demonstration)"
    ]


def test_an_unknown_access_mode_is_checked_as_private():
    result = look(client(access="open"), Doors(refusal=200))
    assert [line.partition(": ")[0] for line in result.failed] == ["without a token", "as a member who is no invoker"]


def test_checks_that_cannot_run_are_reported():
    result = look(client(calls=[]), Doors(), Callers(invoker=Person("ada")))
    assert result.passed == [ANONYMOUS, MADE_UP, WELL]
    assert result.unasked == [
        "with a token for another audience: not checked; your identity cannot get one",
        "as a member who is no invoker: not checked; name such an account with --not-invoker",
    ]


REGIONS = {"a": "https://mcp-echo-1.a.run.app", "b": "https://mcp-echo-1.b.run.app"}
BALANCED = DeployedServer(
    "echo", Target.parse("https://mcp.acme.dev/mcp"), "https://mcp.acme.dev", (), {"urls": REGIONS}
)


def without_invoker(server, front_door):
    return look(server, front_door, replace(PEOPLE, invoker=None))


@pytest.mark.parametrize("url", ["https://mcp.acme.dev", *REGIONS.values()])
def test_every_url_of_a_server_is_checked(url):
    result = without_invoker(BALANCED, Doors(**{f"POST {url}/mcp": 200}))
    assert result.failed[0] == f"{ANONYMOUS}: POST {url}/mcp returned 200"


@pytest.mark.parametrize("url", ["https://x.dev/sse", f"https://x.dev/messages/?session_id={'0' * 32}"])
def test_every_transport_of_a_server_is_checked(url):
    server = DeployedServer(
        "x", Target.parse("https://x.dev/mcp"), "https://x.dev", (), {"transports": ["streamable-http", "sse"]}
    )
    method = "GET" if url.endswith("sse") else "POST"
    result = without_invoker(server, Doors(**{f"{method} {url}": 202}))
    assert result.failed[0] == f"{ANONYMOUS}: {method} {url} returned 202"


def test_with_load_balancer_ingress_the_domain_is_required_and_the_services_url_is_not():
    hidden = replace(BALANCED, output={"urls": REGIONS, "ingress": "internal-and-lb", "domain": "mcp.acme.dev"})
    away = {f"POST {url}/mcp": 404 for url in REGIONS.values()}
    assert without_invoker(hidden, Doors(**away)).failed == []
    assert without_invoker(BALANCED, Doors(**away)).passed == []
    assert without_invoker(hidden, Doors(**{"POST https://mcp.acme.dev/mcp": 404})).passed == []


def test_an_oauth_server_is_checked_with_forged_tokens_with_its_own_claims():
    oauth = {"issuer": "https://login.acme.dev", "audience": "https://x.dev/mcp", "scopes": ["mcp:use"]}
    server = DeployedServer(
        "x", Target.parse("https://x.dev/mcp"), "https://x.dev", (), {"access": "oauth", "oauth": oauth}
    )
    requests = []

    def believing(request):
        """Believes whatever a token claims."""
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            claims = jwt.decode(token, options={"verify_signature": False})
        except jwt.PyJWTError:
            return httpx2.Response(401, headers={"www-authenticate": 'Bearer resource_metadata="https://x.dev/m"'})
        requests.append(claims)
        is_valid = (claims["iss"], claims["aud"], claims["scope"]) == (oauth["issuer"], oauth["audience"], "mcp:use")
        return httpx2.Response(200 if is_valid else 401)

    result = without_invoker(server, believing)
    assert len(result.failed) == 1
    assert result.failed[0].startswith("with a made-up token: 401 that names the resource's metadata: POST")
    assert requests[0]["exp"] > requests[0]["iat"]


def test_the_answer_of_a_named_tool_is_in_the_report_and_in_its_text(report):
    from rich.console import Console

    from mcpfleet.reports import print_reports

    server = MCPServer("greeting")

    @server.tool(annotations=READS)
    def greet() -> str:
        return "hello\n\x1b[2Jworld [bold]"

    result = report(server, options=CheckOptions(call=("greet", {})))
    assert [(call["outcome"], call["code"]) for call in result.calls] == [("answered", None)] * 2
    out = Console(file=io.StringIO(), soft_wrap=True)
    print_reports(out, [result], {"echo": "ada"})
    text = out.file.getvalue()
    assert text.count("    greet answered:\n      | hello\n      | \\u001b[2Jworld [bold]\n") == 1
    assert report(server, options=ANY).calls == []


@pytest.mark.parametrize(
    ("code", "failures"), [(-32603, 2), (-32000, 2), (-32602, 0)], ids=["internal error", "own code", "invalid params"]
)
def test_a_json_rpc_error_of_a_tool_that_was_chosen_is_a_failure_unless_it_refuses_the_arguments(
    report, code, failures
):
    server = MCPServer("broken")

    @server.tool(annotations=READS)
    def explode() -> str:
        raise MCPError(code, "no")

    result = report(server)
    assert len(result.failed) == failures
    assert any(f"JSON-RPC error {code}: no" in line for line in (*result.failed, *result.warned))
