"""Random requests: never a 500 or a traceback, and the same response as the SDK's own application."""

import asyncio
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp.server.transport_security import TransportSecuritySettings

from mcp_server.app import build_server
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.wire import Request, message, meta, scope_of, started

PROFILE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

json_value = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
version = st.sampled_from(["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28", "2027-01-01", "", "x"])
method = st.sampled_from(
    [
        "initialize",
        "ping",
        "tools/list",
        "tools/call",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "logging/setLevel",
        "server/discover",
        "notifications/initialized",
        "notifications/cancelled",
        "no/such",
        "",
    ]
) | st.text(max_size=8)
name = st.sampled_from(["add", "echo", "whoami", "swatch", "look_up_color", "none", ""]) | st.text(max_size=8)
arguments = st.sampled_from([{"a": 1, "b": 2}, {"text": "x"}, {"color": "red"}, {"name": "teal"}, {}]) | json_value
envelope = st.builds(meta) | json_value | st.builds(lambda value: meta(progressToken=value), json_value)
params = (
    st.fixed_dictionaries(
        {},
        optional={
            "name": name,
            "uri": st.sampled_from(["color://palette", "color://teal", "x:"]) | st.text(max_size=8),
            "arguments": arguments,
            "cursor": st.text(max_size=8),
            "ref": st.just({"type": "ref/prompt", "name": "describe_color"}) | json_value,
            "argument": st.just({"name": "mood", "value": "c"}) | json_value,
            "level": st.sampled_from(["info", "x"]),
            "requestState": st.text(max_size=8),
            "inputResponses": json_value,
            "_meta": envelope,
        },
    )
    | json_value
)
identity = st.integers() | st.text(max_size=8) | json_value
request = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": method}, optional={"id": identity, "params": params, "x": json_value}
)
body = (
    request.map(lambda value: json.dumps(value).encode())
    | json_value.map(lambda value: json.dumps(value).encode())
    | st.binary(max_size=64)
    | st.tuples(request, st.integers(0, 80), st.binary(max_size=3)).map(
        lambda parts: json.dumps(parts[0]).encode()[: parts[1]] + parts[2]
    )
)
latin = st.text(st.characters(max_codepoint=255), max_size=12).map(lambda text: text.encode("latin-1"))
header = st.tuples(
    st.sampled_from(
        [
            b"mcp-protocol-version",
            b"mcp-method",
            b"mcp-name",
            b"mcp-param-x",
            b"mcp-session-id",
            b"last-event-id",
            b"accept",
            b"content-type",
            b"content-length",
            b"traceparent",
            b"x-cloud-trace-context",
            b"authorization",
            b"x-serverless-authorization",
            b"origin",
            b"host",
            b"x",
        ]
    ),
    latin | version.map(str.encode) | method.map(lambda text: text.encode("utf-8", "replace")),
)


def lines(given_headers):
    base = [
        (b"host", b"localhost"),
        (b"accept", b"application/json, text/event-stream"),
        (b"content-type", b"application/json"),
    ]
    given_names = {header_name for header_name, _ in given_headers}
    return [line for line in base if line[0] not in given_names] + list(given_headers)


async def _send(app, http_method, path, headers, content, query=b""):
    scope = {**scope_of({"method": "", "params": {}}, modern=False, path=path), "method": http_method}
    scope |= {"headers": headers, "query_string": query}
    request = Request(app, scope, content)
    status, response_headers = await request.start()
    parts = b""
    has_more = True
    while has_more:
        part, has_more = await request.part()
        parts += part
    request.hang_up()
    await asyncio.wait_for(request.task, 5)
    return status, response_headers, parts


class Served:
    """An application that runs for all examples of a test; to build one for each would take most of the time."""

    def __init__(self, app) -> None:
        self.app = app
        self.loop = asyncio.new_event_loop()
        self._running = started(app)
        self.loop.run_until_complete(self._running.__aenter__())

    def send(self, *request):
        return self.loop.run_until_complete(_send(self.app, *request))

    def close(self) -> None:
        self.loop.run_until_complete(self._running.__aexit__(None, None, None))
        self.loop.run_until_complete(self._end_the_rest())
        self.loop.close()

    async def _end_the_rest(self) -> None:
        # sse-starlette has a task of its own, which waits for the process's end.
        remaining = asyncio.all_tasks() - {asyncio.current_task()}
        for task in remaining:
            task.cancel()
        await asyncio.gather(*remaining, return_exceptions=True)


@pytest.fixture(scope="module")
def serve():
    apps = []

    def start(app) -> Served:
        apps.append(Served(app))
        return apps[-1]

    yield start
    for one in apps:
        one.close()


def hosted(**environment):
    chosen = Settings(**environment)
    return build_app(build_server(chosen), chosen)


@pytest.fixture(scope="module")
def stateless(serve):
    return serve(hosted())


@pytest.fixture(scope="module")
def stateful(serve):
    return serve(hosted(MCP_STATELESS="false"))


@pytest.fixture(scope="module")
def legacy(serve):
    return serve(hosted(MCP_TRANSPORTS="streamable-http,sse"))


@pytest.fixture(scope="module")
def sdk(serve):
    """The same server, served by the SDK's own transport."""
    return serve(
        build_server(Settings()).streamable_http_app(
            stateless_http=True, transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
        )
    )


@pytest.fixture(autouse=True)
def quiet(caplog):
    # A record for each refused request would only slow the test down.
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def is_readable(status, headers, content) -> None:
    text = content.decode()
    assert status < 500, text
    assert "Traceback" not in text
    assert ".py" not in text
    if status in (202, 204):
        assert text == ""
    elif headers.get("content-type", "").startswith("text/event-stream"):
        assert '"jsonrpc":"2.0"' in text
    else:
        answer = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not valid JSON"))
        assert answer["jsonrpc"] == "2.0"
        assert ("result" in answer) != ("error" in answer)
        assert "id" in answer


@PROFILE
@given(st.lists(header, max_size=6), body)
def test_no_body_and_no_header_makes_the_server_fail(stateless, headers, content):
    status, response_headers, answer = stateless.send("POST", "/mcp", lines(headers), content)
    is_readable(status, response_headers, answer)


@PROFILE
@given(st.lists(header, max_size=4), body)
def test_no_body_and_no_header_makes_a_server_with_sessions_fail(stateful, headers, content):
    status, _, answer = stateful.send("POST", "/mcp", lines(headers), content)
    assert status < 500
    assert b"Traceback" not in answer


@PROFILE
@given(st.lists(header, max_size=4), body, st.sampled_from([b"", b"session_id=x", b"session_id=" + b"0" * 32]))
def test_no_body_and_no_header_makes_the_legacy_transport_fail(legacy, headers, content, query):
    status, _, answer = legacy.send("POST", "/messages/", lines(headers), content, query)
    assert 400 <= status < 500
    assert b"Traceback" not in answer


@PROFILE
@given(
    st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "X"]),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=20).map(lambda text: "/" + text),
    st.lists(header, max_size=3),
)
def test_no_path_and_no_method_makes_the_server_fail(stateless, http_method, path, headers):
    status, _, answer = stateless.send(http_method, path, lines(headers), b"")
    assert status < 500
    assert b"Traceback" not in answer


@PROFILE
@given(st.booleans(), method, params, st.integers() | st.text(max_size=5), st.booleans())
def test_every_request_gets_the_same_answer_as_from_the_sdks_own_transport(
    stateless, sdk, modern, chosen, given_params, request_id, complete
):
    chosen = chosen.strip()  # white space round a header's value is no part of it
    content = message(chosen, modern=modern, request_id=request_id)
    if isinstance(given_params, dict):
        content["params"] |= {key: value for key, value in given_params.items() if key != "_meta"}
    elif not complete:
        content["params"] = given_params
    try:
        payload = json.dumps(content, allow_nan=False).encode()
    except ValueError:
        return  # NaN: the SDK takes it for JSON, we don't
    headers = lines([(b"mcp-protocol-version", b"2026-07-28" if modern else b"2025-11-25")])
    if modern:
        headers.append((b"mcp-method", chosen.encode("latin-1", "replace")))
        name = (
            content["params"].get("name", content["params"].get("uri")) if isinstance(content["params"], dict) else ""
        )
        headers.append((b"mcp-name", str(name).encode("latin-1", "replace")))

    our_status, _, our_body = stateless.send("POST", "/mcp", headers, payload)
    their_status, _, their_body = sdk.send("POST", "/mcp", headers, payload)
    actual, expected = parsed(our_body), parsed(their_body)
    assert our_status == their_status
    if expected is None or (their_status == 400 and expected.get("id") is None):
        return  # refused before it was a request: the words are our own
    if expected.get("error", {}).get("code") == 0:
        expected["error"] = {"code": -32603, "message": "Internal server error"}  # mcp 2.3 repeats the exception's text
    assert actual == expected


def parsed(content: bytes):
    text = content.decode()
    if "data: " in text:
        text = text.partition("data: ")[2]
    return json.loads(text) if text.strip() else None
