"""Random input from both sides: every request gets a response, and the server receives only messages."""

import asyncio
import base64
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_bridge import messages
from mcpfleet_bridge.headers import decode_header
from mcpfleet_bridge.lines import LineSplitter, TruncatedLine, to_one_line

FUZZ = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
METHODS = st.sampled_from(
    ["tools/call", "tools/list", "ping", "initialize", "notifications/cancelled", "notifications/progress", "x", ""]
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.sampled_from(["2.0", "1.0", 2.0]) | VALUES,
        "id": st.integers() | st.text(max_size=5) | VALUES,
        "method": METHODS | VALUES,
        "params": st.fixed_dictionaries(
            {},
            optional={"name": st.sampled_from(["echo", "none"]), "arguments": VALUES, "_meta": VALUES, "uri": VALUES},
        )
        | VALUES,
        "result": VALUES,
        "error": VALUES,
    },
)
JSON_TEXTS = MESSAGES.map(lambda message: json.dumps(message).encode())


@st.composite
def broken(draw, texts):
    """A text with a piece cut out, doubled, or replaced by any bytes."""
    text = draw(texts)
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, len(text)))
    return text[:start] + draw(st.binary(max_size=6) | st.just(text[start:end] * 2)) + text[end:]


def doubled(message):
    """Return the object with each member repeated, with another value."""
    text = json.dumps(message)[1:-1]
    return ("{" + ", ".join([text, '"id": 77, "method": "ping"'] if text else ['"id": 1, "id": 2']) + "}").encode()


BODIES = (
    JSON_TEXTS
    | broken(JSON_TEXTS)
    | st.binary(max_size=50)
    | st.lists(MESSAGES, max_size=3).map(lambda batch: json.dumps(batch).encode())
    | MESSAGES.map(doubled)
    | MESSAGES.map(lambda message: json.dumps(message, indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    | st.integers(1, 3000).map(lambda depth: b'{"jsonrpc":"2.0","id":1,"method":"x","params":' + b'{"a":' * depth)
)

MODERN = {"mcp-protocol-version": "2026-07-28"}


@FUZZ
@given(st.lists(BODIES, min_size=1, max_size=5), st.sampled_from([{}, MODERN]), st.booleans())
def test_any_body_gets_a_response_and_the_server_gets_only_messages(bridging, bodies, headers, stateless):
    async def run():
        async with bridging(call_seconds=2, stateless=stateless) as http:
            for body in bodies:
                answer = await http.post(body, headers)
                assert answer.ended
                assert answer.status in (200, 202, 400, 404, 413, 503)
                if answer.body:
                    assert answer.last["jsonrpc"] == "2.0"
                    assert ("result" in answer.last) != ("error" in answer.last)
            well = await http.post(*http.modern(name="echo", arguments={"text": "well"}))
            assert well.last["result"]["content"][0]["text"] == "well"
            # FakeServer.write has checked that each of these was one message on one line.
            assert all(message["jsonrpc"] == "2.0" for server in http.fleet.started for message in server.heard)
            assert len(http.fleet.ended) == 0

    asyncio.run(run())


LINES = BODIES.map(lambda body: body.replace(b"\n", b" "))


@FUZZ
@given(st.lists(LINES, max_size=8))
def test_no_line_of_a_server_stops_the_bridge_or_answers_a_wrong_call(bridging, wait_until, lines):
    async def run():
        async with bridging(call_seconds=2, concurrency=4) as http:
            (server,) = http.fleet.started
            call = http.begin(http.call("hold", "mine", key=1))
            await wait_until(lambda: server.held)
            number = server.held[1]
            for line in lines:
                if b'"id"' in line and str(number).encode() in line:
                    continue  # that might well be this call's answer
                server.reader.on_line(line)
            server.release(1, "the answer")
            assert (await call).last["result"]["content"][0]["text"] == "the answer"
            assert (await http.post(http.call("echo", text="still"))).last["result"]["content"][0]["text"] == "still"

    asyncio.run(run())


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from(["echo", "crash", "vanish", "steps", "modern"]), st.text(max_size=5)),
        min_size=1,
        max_size=12,
    )
)
def test_each_client_gets_its_own_answers_in_any_order_of_calls_crashes_and_disconnects(bridging, steps):
    async def run():
        async with bridging(pool=2, call_seconds=5) as http:
            requests = []
            for number, (kind, text) in enumerate(steps):
                own_text = f"{number}:{text}"
                if kind == "modern":
                    request = http.begin(*http.modern(name="echo", arguments={"text": own_text}))
                elif kind == "steps":
                    request = http.begin(http.call("steps", 1, meta={"progressToken": own_text}, count=2))
                elif kind == "vanish":
                    request = http.begin(http.call("hold", 1, key=own_text))
                    request.vanish()
                else:
                    request = http.begin(http.call(kind, 1, text=own_text))
                requests.append((kind, own_text, request))
            for kind, own_text, request in requests:
                answer = await request
                if kind == "vanish":
                    continue
                assert answer.ended
                if "error" in answer.last:
                    assert answer.last["error"]["code"] == -32603, "only a crash fails a call here"
                elif kind == "steps":
                    tokens = {message["params"]["progressToken"] for message in answer.messages[:-1]}
                    assert tokens <= {own_text}
                else:
                    assert answer.last["result"]["content"][0]["text"] == own_text
            assert all(not child.calls for child in http.bridge.pool.children)

    asyncio.run(run())


# --- the small parsers ------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), min_size=1), st.integers(1, 60))
def test_lines_are_the_same_in_any_chunks_and_never_longer_than_the_limit(data, sizes, limit):
    lines, actual, start = LineSplitter(limit), [], 0
    while start < len(data):
        size = sizes[start % len(sizes)]
        actual += lines.feed(data[start : start + size])
        assert lines._size <= limit + 300
        start += size
    expected = [line if len(line) > limit else line.rstrip(b"\r") for line in data.split(b"\n")[:-1]]
    for line, full_line in zip(actual, filter(None, expected), strict=True):
        if isinstance(line, TruncatedLine):
            assert line.size == len(full_line) > limit
            assert full_line.startswith(line.head)
        else:
            assert line == full_line


@given(st.binary(max_size=200))
def test_parsing_returns_a_message_or_a_reason(data):
    for read in (messages.parse, messages.parse_leniently):
        try:
            message = read(data)
        except messages.MessageError as mistake:
            outcome = mistake.code
        else:
            outcome = message.jsonrpc
        assert outcome in (messages.PARSE_ERROR, messages.INVALID_REQUEST, "2.0")


@given(VALUES)
def test_a_message_on_one_line_means_the_same(value):
    text = json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\r\n").encode("utf-8", "replace")
    line = to_one_line(text)
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == json.loads(text)


@given(st.text(max_size=40))
def test_a_base64_header_is_decoded_and_an_invalid_one_matches_nothing(text):
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode()
    assert decode_header(f"=?base64?{encoded}?=") == text.encode("utf-8", "replace").decode()
    assert decode_header(f"=?base64?{encoded}!?=") is None


@pytest.mark.parametrize("value", ["=?base64?/w==?=", "=?base64?YQ?=", "=?base64?YR==?="])
def test_base64_that_is_no_text_or_not_canonical_decodes_to_nothing(value):
    assert decode_header(value) is None
