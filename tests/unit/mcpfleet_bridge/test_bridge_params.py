"""`Mcp-Param-*` headers, which repeat arguments, are compared with them before the server is called."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpfleet_bridge.headers import compare_params, find_declarations
from mcpfleet_bridge.messages import Raw, RefusedError

pytestmark = pytest.mark.anyio

REGION = {"type": "string", "x-mcp-header": "Region"}
SCHEMA = {
    "type": "object",
    "properties": {
        "region": REGION,
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "where": {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
        "text": {"type": "string"},
    },
}


@pytest.fixture
def marked(bridging, fake_server):
    class Marked(fake_server):
        schema = SCHEMA

        def act(self, message):
            if message.get("method") == "tools/list":
                # On two pages, the tool on the second.
                is_second_page = "cursor" in message["params"]
                page = (
                    {"tools": [{"name": "echo", "inputSchema": self.schema}]}
                    if is_second_page
                    else {"nextCursor": "2", "tools": []}
                )
                self.say(id=message["id"], result=page)
            else:
                super().act(message)

    return lambda **options: bridging(server=Marked, **options)


async def call(http, headers, **arguments):
    message, usual = http.modern(name="echo", arguments={"text": "x", **arguments})
    return await http.post(message, {**usual, **headers})


@pytest.mark.parametrize(
    ("headers", "arguments"),
    [
        ({}, {}),
        ({"mcp-param-region": "eu"}, {"region": "eu"}),
        ({"MCP-Param-Region": " eu "}, {"region": "eu"}),
        ({"mcp-param-region": "=?base64?w6Q=?="}, {"region": "ä"}),
        ({"mcp-param-count": "7"}, {"count": 7}),
        ({"mcp-param-count": "7.0"}, {"count": 7}),
        ({"mcp-param-count": "12345678901234567890"}, {"count": 12345678901234567890}),
        ({"mcp-param-count": "9" * 400}, {"count": 10**400 - 1}),
        ({"mcp-param-dry": "true"}, {"dry": True}),
        ({"mcp-param-zone": "a"}, {"where": {"zone": "a"}}),
        ({}, {"region": None}),
        ({"mcp-param-unknown": "x"}, {}),
    ],
)
async def test_a_header_that_matches_its_argument_passes(marked, headers, arguments):
    async with marked() as http:
        assert (await call(http, headers, **arguments)).status == 200


@pytest.mark.parametrize(
    ("headers", "arguments", "said"),
    [
        ({"mcp-param-region": "us"}, {"region": "eu"}, "mcp-param-region differs from the argument region"),
        ({}, {"region": "eu"}, "mcp-param-region is missing"),
        ({"mcp-param-region": "eu"}, {}, "mcp-param-region is present, but the argument region is missing"),
        ({"mcp-param-region": "=?base64?w6Q?="}, {"region": "ä"}, "mcp-param-region is not valid Base64"),
        ({"mcp-param-count": "7.5"}, {"count": 7}, "mcp-param-count differs from"),
        ({"mcp-param-count": "1" * 400}, {"count": 10**400}, "mcp-param-count differs from"),
        ({"mcp-param-count": "7" * 4301}, {"count": 7}, "mcp-param-count differs from"),
        ({"mcp-param-region": "7"}, {"region": 10**4299}, "mcp-param-region differs from"),
        ({"mcp-param-dry": "True"}, {"dry": True}, "mcp-param-dry differs from"),
        ({"mcp-param-zone": "b"}, {"where": {"zone": "a"}}, "mcp-param-zone differs from the argument where.zone"),
        ({"mcp-param-zone": "b"}, {"where": "x"}, "mcp-param-zone is present"),
    ],
)
async def test_a_header_that_differs_from_its_argument_never_reaches_the_server(marked, headers, arguments, said):
    async with marked() as http:
        answer = await call(http, headers, **arguments)
        assert (answer.status, answer.last["error"]["code"]) == (400, -32020)
        assert said in answer.last["error"]["message"]
        assert "tools/call" not in http.fleet.started[0].methods()


@pytest.mark.parametrize("beside", ["1e400", '[{"a": -1e400}]'])
@pytest.mark.parametrize(("header", "status"), [("eu", 200), ("us", 400)])
async def test_a_number_that_only_other_parsers_accept_hides_no_argument(marked, beside, header, status):
    async with marked() as http:
        message, usual = http.modern(name="echo", arguments={"text": "x", "region": "eu", "beside": "?"})
        body = json.dumps(message).replace('"?"', beside).encode()
        assert (await http.post(body, {**usual, "mcp-param-region": header})).status == status


@pytest.mark.parametrize(
    "arguments", [b'{"region": 1e400}', b'{"region": %s}' % (b"9" * 5000), rb'{"\ud800": 1}', b'{"region": ', b"{"]
)
def test_values_that_cannot_be_compared_are_refused(arguments):
    with pytest.raises(RefusedError):
        compare_params(find_declarations(SCHEMA), Raw(arguments), {b"mcp-param-region": b"1e400"})


async def test_the_list_of_tools_is_fetched_once_and_after_each_change(marked):
    async with marked(pool=2) as http:
        for _ in range(4):
            await call(http, {})
        requests = [method for server in http.fleet.started for method in server.methods() if method == "tools/list"]
        assert len(requests) == 2, "two pages of one list"
        type(http.fleet.started[0]).schema = {}
        http.fleet.started[0].say(method="notifications/tools/list_changed")
        assert (await call(http, {}, region="eu")).status == 200


async def test_a_repeated_header_is_refused(marked):
    async with marked() as http:
        message, usual = http.modern(name="echo", arguments={"text": "x", "region": "eu"})
        headers = [
            *http.headers(usual).items(),
            ("host", "localhost"),
            ("mcp-param-region", "eu"),
            ("mcp-param-region", "eu"),
        ]
        answer = await http.request(headers=headers, body=json.dumps(message).encode())
        assert "appears more than once" in answer.last["error"]["message"]


@pytest.mark.parametrize(
    "schema",
    [
        {"x-mcp-header": "A", "type": "string"},
        {"properties": {"a": {"type": "number", "x-mcp-header": "A"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": "A B"}}},
        {"properties": {"a": {"type": "string", "x-mcp-header": 5}}},
        {"properties": {"a": {"type": "array", "items": REGION}}},
        {"properties": {"a": REGION, "b": {**REGION, "x-mcp-header": "region"}}},
        {"anyOf": [{"properties": {"a": REGION}}]},
        {"$defs": {"x": REGION}},
    ],
)
def test_a_schema_with_invalid_header_marks_declares_no_headers(schema):
    assert find_declarations(schema) == ()


@given(
    st.recursive(
        st.none() | st.text(max_size=5) | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["properties", "items", "anyOf", "$defs", "x-mcp-header", "type", "a"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=20,
    )
)
def test_no_schema_makes_the_reader_fail(schema):
    assert isinstance(find_declarations(schema), tuple)


number = st.builds(
    lambda sign, digits, times, end: sign + digits * times + end,
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "9"]),
    # Round the limits of 64 bits, of a float, and of what Python reads as a whole number.
    st.sampled_from([1, 19, 20, 308, 309, 4299, 4300, 4301, 20_000]),
    st.sampled_from(["", "", "", ".0", ".5", "e5", "e400"]),
)


@settings(max_examples=500, deadline=None)
@given(
    number | st.sampled_from(["null", "true", '""', '"7"', "[]", '{"zone": 1}', r'"\ud800"', "[" * 2000, ""]),
    number | st.text(st.characters(max_codepoint=255), max_size=8),
    st.sampled_from(["count", "region", "dry"]),
)
def test_any_header_and_any_argument_are_compared_or_refused(argument, header, name):
    arguments = Raw(b'{"%s": %s}' % (name.encode(), argument.encode()))
    with contextlib.suppress(RefusedError):
        compare_params(find_declarations(SCHEMA), arguments, {f"mcp-param-{name}".encode(): header.encode("latin-1")})
