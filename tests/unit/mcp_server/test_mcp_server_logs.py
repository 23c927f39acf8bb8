"""Logs: one Cloud Logging entry on each line, linked to the trace of the request."""

import json
import logging
import warnings
from datetime import UTC, datetime

import pytest
from mcp.server.mcpserver import MCPServer

from mcp_server.app import build_server
from mcpfleet_server import logs
from mcpfleet_server.hosting import runner
from mcpfleet_server.hosting.settings import Settings
from tests.unit.mcp_server.tokens import ADA, id_token

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACE_KEY = "logging.googleapis.com/trace"
LABELS = "logging.googleapis.com/labels"
SPAN_KEY = "logging.googleapis.com/spanId"
SAMPLED_KEY = "logging.googleapis.com/trace_sampled"


def test_a_record_is_one_json_object_with_severity_message_time_and_logger(logged):
    logging.getLogger("shop").warning("only %d left\nof %s", 3, "żaba\u2028")
    (entry,) = logged()
    assert entry["severity"] == "WARNING"
    assert entry["message"] == "only 3 left\nof żaba\u2028"
    assert entry[LABELS] == {"logger": "shop"}
    age = datetime.now(UTC) - datetime.fromisoformat(entry["time"])
    assert abs(age.total_seconds()) < 60
    assert TRACE_KEY not in entry


def test_every_level_has_its_cloud_logging_severity(logged):
    logged(level="DEBUG")
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL, 33):
        logging.getLogger("shop").log(level, "x")
    severities = [entry["severity"] for entry in logged()]
    assert severities == ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "DEFAULT"]


def test_an_exception_stays_on_the_line_of_its_record(logged):
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("shop").exception("failed", stack_info=True)
    (entry,) = logged()
    assert entry["severity"] == "ERROR"
    assert entry["message"].startswith("failed\nTraceback (most recent call last):")
    assert "ValueError: first\nsecond" in entry["message"]
    assert "Stack (most recent call last):" in entry["message"]


def test_a_record_with_mismatched_format_arguments_is_still_written():
    # Formatted by hand: pytest's own handler, which listens to every logger, raises for such a record.
    record = logging.makeLogRecord({"name": "shop", "levelname": "INFO", "msg": "%d items", "args": ("many",)})
    entry = json.loads(logs.CloudLoggingFormatter().format(record))
    assert "%d items" in entry["message"]
    assert "many" in entry["message"]


def test_uvicorn_the_sdk_and_warnings_use_the_same_format(logged):
    build_server(Settings())
    logging.getLogger("uvicorn.error").info("Started")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    assert [entry[LABELS]["logger"] for entry in logged()] == [
        "uvicorn.error",
        "py.warnings",
    ]


@pytest.mark.parametrize(
    ("headers", "trace"),
    [
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, (TRACE, "00f067aa0ba902b7", True)),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-00"}, (TRACE, "00f067aa0ba902b7", False)),
        ({"x-cloud-trace-context": f"{TRACE}/67667974448284343;o=1"}, (TRACE, "00f067aa0ba902b7", True)),
        ({"x-cloud-trace-context": f"{TRACE}/1;o=0"}, (TRACE, "0000000000000001", False)),
        ({"x-cloud-trace-context": TRACE.upper()}, (TRACE, None, False)),
        (
            {
                "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01",
                "x-cloud-trace-context": f"{'a' * 32}/1;o=0",
            },
            (TRACE, "00f067aa0ba902b7", True),
        ),
        ({"traceparent": "junk", "x-cloud-trace-context": f"{TRACE}/1;o=1"}, (TRACE, "0000000000000001", True)),
        ({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01\n"}, None),
        ({"traceparent": f"00-{TRACE[:-1]}-00f067aa0ba902b7-01"}, None),
        ({"x-cloud-trace-context": f"projects/p/traces/{TRACE}"}, None),
        ({}, None),
    ],
)
def test_a_requests_trace_is_read_from_the_first_valid_header(headers, trace):
    actual = logs.trace_of(headers)
    assert (None if actual is None else (actual.trace_id, actual.span_id, actual.sampled)) == trace


@pytest.mark.anyio
async def test_a_tools_log_entries_have_the_trace_of_its_call_in_both_protocol_versions(connected, logged):
    server = MCPServer("shop")

    @server.tool()
    async def sell() -> str:
        logging.getLogger("shop").info("sold")
        return "ok"

    async with connected(server, headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}) as client:
        await client.call_tool("sell", {})
    (sold,) = [entry for entry in logged() if entry["message"] == "sold"]
    assert sold[TRACE_KEY] == TRACE
    assert sold[SPAN_KEY] == "00f067aa0ba902b7"
    assert sold[SAMPLED_KEY] is True


@pytest.mark.anyio
async def test_a_refusal_is_logged_with_the_trace_of_its_own_request(serving, logged):
    logged(project="acme-dev")
    async with serving(build_server(Settings())) as http:
        await http.post("/mcp", headers={"host": "evil.test", "x-cloud-trace-context": f"{TRACE}/1;o=1"})
        await http.post("/mcp", headers={"host": "evil.test"})
    with_trace, without = [entry for entry in logged() if "evil.test" in entry["message"]]
    assert with_trace["severity"] == "WARNING"
    assert with_trace[TRACE_KEY] == f"projects/acme-dev/traces/{TRACE}"
    assert TRACE_KEY not in without


@pytest.mark.anyio
async def test_each_tool_call_is_one_log_line_with_tool_caller_and_outcome(connected, logged):
    headers = {"authorization": f"Bearer {id_token(ADA)}"}
    async with connected(build_server(Settings()), headers=headers, MCP_ACCESS="iam") as client:
        await client.list_tools()
        await client.call_tool("add", {"a": 1, "b": 2})
        await client.call_tool("add", {"a": 1, "b": "x" * 500})
    added, failed = [entry for entry in logged() if entry[LABELS] == {"logger": "mcp_server.calls"}]
    assert added["message"] == "tools/call add: ok"
    assert added["fields"]["milliseconds"] > 0
    assert {name: added["fields"][name] for name in ("tool", "outcome", "caller")} == {
        "tool": "add",
        "outcome": "ok",
        "caller": "ada@mcpfleet.test",
    }
    assert failed["fields"]["outcome"] == "error"


@pytest.mark.anyio
async def test_a_quiet_call_writes_no_other_line(connected, logged):
    async with connected(build_server(Settings())) as client:
        await client.call_tool("add", {"a": 1, "b": 2})
    loggers = {entry[LABELS]["logger"].partition(".")[0] for entry in logged()}
    assert loggers <= {"httpx2", "mcp_server"}


@pytest.mark.parametrize("encode", [logs.to_json, runner.to_json], ids=["standard library", "hosting"])
def test_any_logged_value_is_one_line(logged, encode):
    logged(encode=encode)
    itself: dict[str, object] = {}
    itself["it"] = itself
    logged_fields = {"n": float("nan"), "o": object, "itself": itself, 7: "half \udce4", "text": "ä\u2028"}
    logging.getLogger("shop").info("half \udce4 character", extra={"fields": logged_fields})
    (entry,) = logged()
    assert entry["message"] == "half ? character"
    assert (entry["fields"]["n"].lower(), entry["fields"]["text"]) == ("nan", "ä\u2028")
    assert "object" in entry["fields"]["o"]
    assert "{...}" in entry["fields"]["itself"]
    assert entry["fields"]["7"].startswith("half")
