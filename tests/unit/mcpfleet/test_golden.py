"""Golden calls: the file, and what an answer must hold, against a server in memory."""

import asyncio
import json

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from mcpfleet.errors import UsageError
from mcpfleet.golden import GoldenCall, read_golden_calls
from mcpfleet.stack import DeployedServer
from mcpfleet.target import Target
from mcpfleet.tool_calls import ToolCall
from mcpfleet.verify import Callers, CheckOptions, check
from mcpfleet_server.hosting import build_app
from mcpfleet_server.hosting.settings import Settings
from tests.unit.asgi import lifespan

URL = "http://127.0.0.1:8080"
SERVER = DeployedServer("orders", Target.parse(f"{URL}/mcp"), URL, (), {"access": "public"})


@pytest.fixture
def golden(tmp_path):
    def write(content):
        file = tmp_path / "golden.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "Invalid JSON"),
        ("{}", "valid array"),
        ("[]", "has no calls"),
        ([{"arguments": {}}], r"\[0\].tool: Field required"),
        ([{"tool": "a", "expects": "b"}], r"\[0\].expects: Extra inputs"),
        ([{"tool": "a", "outcome": "maybe"}], r"\[0\].outcome"),
        ([{"tool": "a", "contains": "text"}], r"\[0\].contains"),
        ([{"tool": "a"}], r"\[0\]: it names no server. The servers are: orders, billing"),
        ([{"tool": "a", "server": "\x1b[2J"}], r"\[0\]: \\u001b\[2J is not verified"),
    ],
)
def test_a_file_that_is_wrong_is_one_message_with_the_place(golden, content, message):
    with pytest.raises(UsageError, match=message):
        read_golden_calls(golden(content), ["orders", "billing"])


def test_calls_are_given_to_the_server_that_they_name(golden):
    calls = [{"tool": "a", "server": "billing"}, {"tool": "b", "server": "orders"}, {"tool": "c", "server": "billing"}]
    result = read_golden_calls(golden(calls), ["orders", "billing"])
    assert {name: [call.tool for call in listed] for name, listed in result.items()} == {
        "billing": ["a", "c"],
        "orders": ["b"],
    }
    assert [*read_golden_calls(golden([{"tool": "a"}]), ["orders"])] == ["orders"]


JSON = st.recursive(
    st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def answer(structured, text=""):
    return ToolCall("a", "answered", text, None, {"structuredContent": structured})


@given(JSON, JSON)
def test_an_answer_holds_itself_and_nothing_that_it_has_not(value, other):
    assert [*GoldenCall(tool="a", structured=value).find_failures(answer(value))] == []
    expected = {"here": value, "more": other}
    assert [*GoldenCall(tool="a", structured={"here": value}).find_failures(answer(expected))] == []
    assert [*GoldenCall(tool="a", structured=expected).find_failures(answer({"here": value}))] != []
    assert [*GoldenCall(tool="a", structured=[value]).find_failures(answer([value, other]))] != []


def verify(monkeypatch, *calls):
    for setting in Settings.model_fields.values():
        monkeypatch.delenv(str(setting.validation_alias), raising=False)
    server, called = MCPServer("orders"), []

    @server.tool()
    def count(customer: str) -> dict[str, int]:
        called.append(customer)
        if customer == "gone":
            raise ToolError("no such customer")
        return {"orders": 3, "open": 1}

    app = build_app(server, Settings())

    async def run():
        async with lifespan(app):
            options = CheckOptions(golden_calls=[GoldenCall(**call) for call in calls])
            return await check(SERVER, Callers(None), options, httpx2.ASGITransport(app))

    return asyncio.run(asyncio.wait_for(run(), 20)), called


def test_each_golden_call_is_made_once_and_is_a_check_of_its_own(monkeypatch):
    report, called = verify(
        monkeypatch,
        {"tool": "count", "arguments": {"customer": "acme"}, "contains": ["3"], "structured": {"orders": 3}},
        {"tool": "count", "arguments": {"customer": "gone"}, "outcome": "tool_error", "contains": ["no such"]},
    )
    assert (report.failed, called) == ([], ["acme", "gone"])
    assert [line for line in report.passed if "golden" in line] == [
        "golden call [0] of count",
        "golden call [1] of count",
    ]


@pytest.mark.parametrize(
    ("call", "failure"),
    [
        ({"structured": {"orders": 4}}, "structured.orders should be 4, and is 3"),
        ({"structured": {"closed": 4}}, "structured.closed is missing"),
        ({"contains": ["\x1b[2J"]}, '"\\u001b[2J" is not in the answer'),
        ({"outcome": "tool_error"}, "tool_error was expected, and the tool answered"),
        ({"arguments": {"customer": "gone"}}, "answered with an error of its own (isError)"),
    ],
)
def test_an_answer_that_does_not_hold_it_fails_with_the_reason(monkeypatch, call, failure):
    report, _ = verify(monkeypatch, {"tool": "count", "arguments": {"customer": "acme"}, **call})
    (failed,) = report.failed
    assert failed.startswith("golden call [0] of count: ")
    assert failure in failed


def test_golden_calls_that_nobody_can_make_fail():
    private = DeployedServer("orders", SERVER.target, URL, (), {})
    transport = httpx2.MockTransport(lambda _request: httpx2.Response(403))
    options = CheckOptions(golden_calls=[GoldenCall(tool="count")])
    report = asyncio.run(check(private, Callers(None), options, transport))
    assert any(line.startswith("golden calls: not checked") for line in report.failed)
