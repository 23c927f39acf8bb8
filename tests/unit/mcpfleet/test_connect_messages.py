"""Lines of a client and their headers, compared with the official SDK's own functions."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import decode_header_value, encode_header_value, mcp_param_headers, x_mcp_header_map

from mcpfleet import jsonrpc
from mcpfleet.jsonrpc import NotAMessageError, header_value, parse
from mcpfleet.tools import Tools

MODERN = "2026-07-28"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def call(name, arguments, version=MODERN):
    meta = {"_meta": {jsonrpc.VERSION_META: version}} if version else {}
    params = {"name": name, "arguments": arguments, **meta}
    return parse(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode())


def listing(*tools):
    return parse(b'{"jsonrpc":"2.0","id":9,"method":"tools/list"}'), {"tools": list(tools)}


def tool(name, schema=None, **annotations):
    return {"name": name, "inputSchema": schema or {}, "annotations": annotations}


@given(st.binary() | st.text().map(str.encode) | json_values.map(lambda value: json.dumps(value).encode()))
def test_a_line_is_parsed_or_refused_with_the_reason(line):
    try:
        message = parse(line)
    except NotAMessageError:
        return
    assert message.raw == line
    assert message.method or message.id is not None


@given(json_values)
def test_no_answer_of_a_server_corrupts_the_known_tools(result):
    tools = Tools()
    request, _ = listing()
    tools.read_list(request, result)
    tools.read_list(request, {"tools": result})
    tools.read_list(request, {"tools": [result, {"name": "a", "inputSchema": result, "annotations": result}]})


@pytest.mark.parametrize(
    "line",
    [b"[]", b"1", b"{}", b'{"id":1}', b'{"method":1}', b'{"method":"x","id":{}}', b"nonsense", b'{"id":true,"a":1}'],
)
def test_invalid_messages_are_refused(line):
    with pytest.raises(NotAMessageError):
        parse(line)


@given(st.text())
def test_any_text_is_encoded_in_a_header_as_by_the_official_sdk(text):
    written = header_value(text)
    assert written == encode_header_value(text)
    assert decode_header_value(written) == text
    assert written.isascii()
    assert not set(written) & {"\r", "\n"}


def test_a_call_has_headers_for_protocol_version_method_and_tool():
    headers = Tools().headers(call("größe", {}))
    assert headers["mcp-protocol-version"] == MODERN
    assert headers["mcp-method"] == "tools/call"
    assert decode_header_value(headers["mcp-name"]) == "größe"


@given(
    st.dictionaries(
        st.sampled_from(["region", "count", "deep", "flag"]),
        st.text(max_size=6) | st.integers() | st.booleans() | st.none(),
        max_size=4,
    ),
    st.text(max_size=6) | st.integers() | st.booleans(),
)
def test_arguments_marked_for_headers_are_sent_as_by_the_sdk(arguments, deep):
    schema = {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "count": {"type": "integer", "x-mcp-header": "Count"},
            "flag": {"type": "boolean", "x-mcp-header": "Flag"},
            "deep": {"type": "object", "properties": {"inner": {"type": "string", "x-mcp-header": "Inner"}}},
            "many": {"type": "array", "items": {"type": "string", "x-mcp-header": "Never"}},
        },
    }
    arguments = {**arguments, "deep": {"inner": deep}, "many": ["x"]}
    tools = Tools()
    tools.read_list(*listing(tool("t", schema)))
    actual = {
        name: value for name, value in tools.headers(call("t", arguments)).items() if name.startswith("mcp-param-")
    }
    expected = mcp_param_headers(x_mcp_header_map(schema), arguments)
    assert actual == {name.lower(): value for name, value in expected.items() if not name.endswith("Never")}


def test_a_call_may_be_repeated_only_if_the_tool_says_so():
    tools = Tools()
    tools.read_list(*listing(tool("reads", readOnlyHint=True), tool("same", idempotentHint=True), tool("acts")))
    assert [tools.may_repeat(call(name, {})) for name in ("reads", "same", "acts", "unheard-of")] == [
        True,
        True,
        False,
        False,
    ]
    tools.read_list(*listing(tool("reads", readOnlyHint=False)))
    assert not tools.may_repeat(call("reads", {})), "what a tool says last counts"


@pytest.mark.parametrize(
    ("method", "may"), [("tools/list", True), ("resources/read", True), ("initialize", True), ("acme/pay", False)]
)
def test_other_requests_may_be_repeated_only_if_they_are_known_to_be_read_only(method, may):
    assert Tools().may_repeat(parse(json.dumps({"id": 1, "method": method}).encode())) is may
