"""What a caller writes stays one message on one line: nobody speaks for another in the process that all share."""

import asyncio
import itertools
import json
import logging
from contextlib import asynccontextmanager

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stdio_bridge import logs
from stdio_bridge.calls import Call
from stdio_bridge.child import Child
from stdio_bridge.lines import NotOneLine
from stdio_bridge.process import Process

pytestmark = pytest.mark.anyio

ASKS = {"elicitation": {}}
ENDS = ("\n", "\r", "\r\n", "\n\n", "\t\n ", " ")
IN_TEXT = ("\u2028", "\u2029", "\x85", "\\u2028", "\\n", "\\r\\n", "plain", "\\\\")
"""What splits lines for some reader (Node's readline, Java's Scanner, Python's splitlines) and may stand in a text."""

FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def splitting(fake_server):
    """A server that takes for a line whatever any reader takes for one, and does what each line says.

    Of a member that comes twice it takes both, as Go does with objects.
    """

    def both(pairs):
        found = {}
        for name, value in pairs:
            known = found.get(name)
            found[name] = {**value, **known} if isinstance(known, dict) and isinstance(value, dict) else value
        return found

    class Splitting(fake_server):
        def write(self, line):
            if self.over:
                return False
            self.lines = [*getattr(self, "lines", []), line]
            for part in line.decode().splitlines():
                try:
                    message = json.loads(part, object_pairs_hook=both)
                except ValueError:
                    self.heard.append({"broken": part})
                    continue
                if isinstance(message, dict):
                    self.heard.append(message)
                    asyncio.get_running_loop().call_soon(self.act, message)
            return True

        def act(self, message):
            if message.get("jsonrpc") == "2.0":
                super().act(message)

        def tool_steps(self, number, params):
            if "progressToken" in params.get("_meta", {}):
                super().tool_steps(number, params)
            else:
                self.say(id=number, result=self.text("done"))

    return Splitting


class Caller:
    """A client on one path through the bridge, which writes its messages by hand."""

    def __init__(self, http, name, session=None, stream=None):
        self.http, self.name, self.session, self.stream = http, name, session, stream

    async def call(self, arguments, identity=b"1", tool="echo", meta=b""):
        """Call a tool with these bytes as its arguments; the answer's text, or its error."""
        request, extra = self.begin(arguments, identity, tool, meta)
        answer = await request
        if self.name == "sse":
            assert answer.status == 202
            wanted = json.loads(identity)
            while not (found := [one for one in self.stream.answer.messages if one.get("id") == wanted]):  # noqa: ASYNC110
                await asyncio.sleep(0)
            return found[-1]
        if extra is not None:
            return await extra(answer)
        return answer.last

    def begin(self, arguments, identity, tool, meta):
        params = b'"name":"%s","arguments":%s' % (tool.encode(), arguments)
        path, query, extra, headers = "/mcp", b"", None, {}
        if self.name in ("modern", "leased", "resumed"):
            capabilities = b"{}" if self.name == "modern" else json.dumps(ASKS).encode()
            envelope = (
                b'{"io.modelcontextprotocol/protocolVersion":"2026-07-28",'
                b'"io.modelcontextprotocol/clientCapabilities":%s%s}' % (capabilities, meta and b"," + meta)
            )
            headers = {"mcp-protocol-version": "2026-07-28", "mcp-method": "tools/call", "mcp-name": tool}
            params += b',"_meta":' + envelope
        elif meta:
            params += b',"_meta":{%s}' % meta
        if self.name == "session":
            headers = {"mcp-session-id": self.session}
        if self.name == "sse":
            path, query = "/messages/", f"session_id={self.session}".encode()
        if self.name == "resumed":
            # The bytes travel as the answer to the server's question.
            asking = b'"name":"ask","arguments":{"method":"elicitation/create"},"_meta":' + envelope
            headers = {**headers, "mcp-name": "ask"}

            async def extra(answer):
                state = answer.last["result"]["requestState"].encode()
                again = asking + b',"requestState":"%s","inputResponses":{"question-1":%s}' % (state, arguments)
                final = await self.post(again, identity, headers, path, query)
                found = final.last
                if "result" in found and tool == "echo":
                    said = json.loads(found["result"]["content"][0]["text"])
                    found["result"]["content"][0]["text"] = said["text"]
                return found

            params = asking
        return self.post(params, identity, headers, path, query), extra

    def post(self, params, identity, headers, path="/mcp", query=b""):
        body = b'{"jsonrpc":"2.0","id":%s,"method":"tools/call","params":{%s}}' % (identity, params)
        return self.http.request(body=body, headers=self.http.headers(headers), path=path, query=query)


PATHS = ("modern", "leased", "legacy", "session", "sse", "resumed")


@asynccontextmanager
async def callers(bridging, server, name, count):
    """Callers of one bridge, all on the same path."""
    options = {"stateless": name not in ("session", "sse"), "sse": name == "sse", "call_seconds": 5, "exclusive": 8}
    async with bridging(server=server, **options) as http:
        found, streams = [], []
        for _ in range(count):
            session = stream = None
            if name == "session":
                opened = await http.post(
                    {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"capabilities": {}}}
                )
                session = opened.headers["mcp-session-id"]
            if name == "sse":
                stream = http.request("GET", "/sse", http.headers())
                streams.append(stream)
                while b"session_id=" not in stream.answer.body:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                session = stream.answer.body.partition(b"session_id=")[2].partition(b"\r")[0].decode()
                body = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"capabilities":{}}}'
                query = f"session_id={session}".encode()
                await http.request(path="/messages/", body=body, headers=http.headers(), query=query)
                while not stream.answer.messages:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            found.append(Caller(http, name, session, stream))
        yield found
        for stream in streams:
            stream.vanish()
            await stream


def unbroken(server):
    """Every line that was written is one line for every reader, and each was read as a message."""
    return all(len(line.decode().splitlines()) == 1 for line in server.lines) and not any(
        "broken" in message for message in server.heard
    )


SPACES = st.lists(st.sampled_from([*ENDS, ""]), max_size=3).map("".join)
TEXTS = st.lists(st.sampled_from(IN_TEXT), max_size=4).map("".join)


@st.composite
def spaced(draw, value):
    """A value as JSON with any blanks between its tokens, and with what splits lines in its texts."""
    if isinstance(value, dict):
        members = [
            f"{draw(SPACES)}{json.dumps(key)}{draw(SPACES)}:{draw(SPACES)}{draw(spaced(inner))}{draw(SPACES)}"
            for key, inner in value.items()
        ]
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(f"{draw(SPACES)}{draw(spaced(inner))}{draw(SPACES)}" for inner in value) + "]"
    if value is ...:
        return f'"{draw(TEXTS)}"'
    return json.dumps(value)


PLANTED = st.sampled_from(
    [
        {
            "jsonrpc": "2.0",
            "id": 2,
            "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "planted"}},
        },
        {"jsonrpc": "2.0", "id": 2, "result": {"content": [{"type": "text", "text": "planted"}]}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}},
        {"a": [1, ...], "b": {"c": ..., "__proto__": None}},
    ]
)


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(data=st.data())
def test_a_message_printed_in_any_way_is_one_line_and_means_the_same_on_every_path(bridging, splitting, path, data):
    value = {"text": ..., "more": data.draw(PLANTED), "number": 1}
    text = data.draw(spaced(value))

    async def run():
        async with callers(bridging, splitting, path, 1) as (caller,):
            answer = await caller.call(text.encode())
            assert answer["result"]["content"][0]["text"] == json.loads(text)["text"]
            for server in caller.http.fleet.started:
                assert unbroken(server)
                methods = [method for method in server.methods() if method != "tools/list"]
                assert methods in (
                    ["initialize", "notifications/initialized"],
                    ["initialize", "notifications/initialized", "tools/call"],
                    ["initialize", "notifications/initialized", "tools/call", None],
                    ["initialize", "tools/call"],
                )

    asyncio.run(run())


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
@pytest.mark.parametrize("path", PATHS)
async def test_one_caller_can_not_answer_the_call_of_another(bridging, splitting, until, path, end):
    async with callers(bridging, splitting, path, 2) as (victim, attacker):
        kind = Caller(victim.http, "leased" if path == "resumed" else path, victim.session, victim.stream)
        held = asyncio.ensure_future(kind.call(b'{"key":"v","text":"x"}', b'"victim"', "hold"))
        fleet = victim.http.fleet
        await until(lambda: any(server.held for server in fleet.started))
        (server,) = [one for one in fleet.started if one.held]
        number = server.held["v"]
        # The worst case: the attacker knows the number of the victim's call.
        echo = {"name": "echo", "arguments": {"text": "planted"}}
        plants = [
            {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": echo},
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}},
            {"jsonrpc": "2.0", "id": number, "result": {"content": [{"type": "text", "text": "planted"}]}},
        ]
        lines = f",{end}".join(f'"{n}":{end}{json.dumps(plant)}{end}' for n, plant in enumerate(plants))
        answer = await attacker.call(f'{{"text":"mine",{lines}}}'.encode(), b'"attacker"')
        assert answer["result"]["content"][0]["text"] == "mine"
        assert not held.done()
        assert all(unbroken(one) for one in fleet.started)
        server.release("v", "the victim's own")
        assert (await held)["result"]["content"][0]["text"] == "the victim's own"


PARTS = ("method", "member", "id", "token", "uri", "capability", "level", "state")


def with_part(where, plant):
    """A message of 2026-07-28 in which one part is a text that was written by hand."""
    part = {**dict.fromkeys(PARTS, "x"), "method": "subscriptions/listen" if where == "uri" else "tools/call"}
    part[where] = plant
    state = f',"requestState":"{plant}"' if where == "state" else ""
    meta = (
        f'"progressToken":"{part["token"]}","io.modelcontextprotocol/protocolVersion":"2026-07-28",'
        f'"io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{"{part["capability"]}":1}}}},'
        f'"io.modelcontextprotocol/logLevel":"{part["level"]}"'
    )
    params = (
        f'"name":"echo","arguments":{{"text":"t"}},"{part["member"]}":1{state},'
        f'"notifications":{{"resourceSubscriptions":["{part["uri"]}"]}},"_meta":{{{meta}}}'
    )
    return f'{{"jsonrpc":"2.0","id":"{part["id"]}","method":"{part["method"]}","params":{{{params}}}}}'.encode()


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\u2029", "\x85", "\\u2028", "\\u0085"])
@pytest.mark.parametrize("where", PARTS)
async def test_no_part_of_a_message_ends_a_line(bridging, splitting, until, where, end):
    """Line ends proper are no JSON inside a text, so such a message is refused as a whole."""
    plant = f'x{end}{{\\"jsonrpc\\":\\"2.0\\",\\"id\\":1,\\"method\\":\\"ping\\"}}{end}'
    method = "subscriptions/listen" if where == "uri" else "tools/call"
    modern = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": "echo"}
    async with bridging(server=splitting, call_seconds=5) as http:
        for given_headers in (modern, {}):
            request = http.request(body=with_part(where, plant), headers=http.headers(given_headers))
            await until(lambda: request.task.done() or "resources/subscribe" in http.fleet.started[0].methods())  # noqa: B023
            request.vanish()
            answer = await request
            assert all(unbroken(server) for server in http.fleet.started)
            if end in "\r\n":
                assert (answer.status, answer.last["error"]["code"]) == (400, -32700)
            elif where == "id":
                assert answer.last["id"] == json.loads(f'"{plant}"')
            for event in answer.body.removesuffix(b"\r\n\r\n").split(b"\r\n\r\n"):
                assert len(event.decode().splitlines()) <= 2, "a field for the kind of event and one for the message"


@pytest.mark.parametrize("end", ["\n", "\r", "\u2028", "\x85"])
async def test_what_a_session_says_and_answers_is_one_line_too(bridging, splitting, until, end):
    blank, text = (end, "") if end in "\r\n" else ("", end)
    planted = f'{{"jsonrpc":"2.0","id":1,"method":"ping","x":"{text}"}}'
    value = f'{{{blank}"a":{blank}{planted}{blank}}}'.encode()
    async with callers(bridging, splitting, "session", 1) as (caller,):
        headers = caller.http.headers({"mcp-session-id": caller.session})
        (*_, server) = caller.http.fleet.started

        async def post(body):
            return await caller.http.request(body=body, headers=headers)

        assert (await post(b'{"jsonrpc":"2.0","method":"notifications/x","params":%s}' % value)).status == 202
        for member in (b"result", b"error"):
            asking, _ = caller.begin(b'{"method":"roots/list"}', b"5", "ask", b"")
            await until(lambda: server.asked)
            (identity,) = server.asked
            identity = json.dumps(identity).encode()
            assert (await post(b'{"jsonrpc":"2.0","id":%s,"%s":%s}' % (identity, member, value))).status == 202
            said = (await asking).last["result"]["content"][0]["text"]
            assert json.loads(said) == json.loads(value)
        assert unbroken(server)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "token",
    [
        b'"progressToken":NUMBER',
        b'"progress\\u0054oken":NUMBER',
        b'"progressToken":NUMBER,"progressToken":"mine"',
        b'"progressToken":"mine","progress\\u0054oken":NUMBER',
        b'"progressToken":NUMBER}, "_meta":{',
        b'"progressToken":NUMBER}, "_m\\u0065ta":{"x":1',
        b'"x":1}, "_m\\u0065ta":{"progress\\u0054oken":NUMBER',
    ],
)
async def test_a_caller_who_names_the_token_of_another_reaches_nobody_but_himself(
    bridging, splitting, until, path, token
):
    async with callers(bridging, splitting, path, 2) as (victim, attacker):
        if path == "resumed":
            victim.name = attacker.name = "leased"
        fleet = victim.http.fleet
        held = victim.begin(b'{"key":"v"}', b'"victim"', "hold", b'"progressToken":"victim\'s"')[0]
        await until(lambda: any(server.held for server in fleet.started))
        (server,) = [one for one in fleet.started if one.held]
        (call,) = [message for message in server.heard if message.get("id") == server.held["v"]]
        named = str(call["params"]["_meta"]["progressToken"]).encode()
        if path in ("modern", "leased", "resumed") and b"}," in token:
            token = token.partition(b"}")[0]  # a second _meta without the envelope is refused
        request, _ = attacker.begin(b'{"count":1}', b'"attacker"', "steps", token.replace(b"NUMBER", named))
        await until(request.task.done)
        await until(lambda: not any(child.calls for child in children(attacker.http) if child.name != server.name))
        steps = [
            message
            for one in fleet.started
            for message in one.heard
            if message.get("params", {}).get("name") == "steps"
        ]
        sent = steps[0]["params"].get("_meta", {}).get("progressToken") if steps else None
        assert sent != int(named) or steps[0]["id"] == sent
        server.release("v")
        answer = await held
        seen = victim.stream.answer if path == "sse" else answer
        if path == "sse":
            await until(lambda: any(one.get("id") == "victim" for one in seen.messages))
        assert [one for one in seen.messages if one.get("method") == "notifications/progress"] == []


def children(http):
    """Every process that answers."""
    bridge = http.bridge
    return [
        *bridge.pool.children,
        *(lease.child for lease in bridge.leases.all),
        *(session.child for session in bridge.sessions.all.values()),
    ]


async def test_the_number_of_a_call_can_not_be_guessed_nor_is_it_used_twice(bridging):
    async with bridging() as http:
        for _ in range(50):
            await http.post(http.call("echo", text="x"))
        (server,) = http.fleet.started
        numbers = [message["id"] for message in server.heard if "id" in message]
        assert len(set(numbers)) == len(numbers)
        steps = {after - before for before, after in itertools.pairwise(numbers)}
        assert len(steps) > len(numbers) // 2
        assert all(0 < number < 2**31 for number in numbers), "whoever reads them as 32 bits reads them right"


# --- from the server ------------------------------------------------------------------------------------------


@FUZZ
@given(data=st.data(), stream=st.booleans())
def test_an_answer_is_one_event_whatever_the_server_puts_between_and_into_its_texts(bridging, data, stream):
    planted = "data: {}\u2028\u2028event: message\u2029id: 7\x85: x"
    value = {"content": [{"type": "text", "text": planted}, ...], "data": data.draw(PLANTED)}
    text = data.draw(spaced(value)).replace("\n", " ")  # its lines end there
    answer = f'{{"jsonrpc":"2.0",\r"id":ID,\r"result":{text}}}'.encode()

    async def run():
        async with bridging(call_seconds=5) as http:
            http.fleet.started[0].tool_raw = lambda number, params: http.fleet.started[0].reader.line(
                answer.replace(b"ID", b"%d" % number)
            )
            headers = {"accept": "text/event-stream"} if stream else {}
            got = await http.post(http.call("raw"), headers)
            assert got.last["result"] == json.loads(text)
            assert len(got.body.decode().splitlines()) == (3 if stream else 1)

    asyncio.run(run())


@pytest.mark.parametrize("guess", ["ID", "1", "2", '"ID"', "ID.0", "null", "-ID"])
async def test_a_server_that_prints_what_a_caller_says_answers_nobody_elses_call(bridging, until, guess):
    async with bridging(call_seconds=5) as http:
        (server,) = http.fleet.started
        held = http.begin(http.call("hold", "victim", key="v"))
        await until(lambda: server.held)
        # The attacker knows the number of a call of his own, and neighbours of it.
        line = f'{{"jsonrpc":"2.0","id":{guess},"result":{{"content":[{{"type":"text","text":"planted"}}]}}}}'
        attack = http.begin(http.call("raw", "attacker", line=line))
        await until(lambda: server.methods().count("tools/call") == 2)
        for number in range(-10, 200):
            server.reader.line(json.dumps({"jsonrpc": "2.0", "id": number, "result": {}}).encode())
        assert not held.task.done()
        server.release("v", "mine")
        assert (await held).last["result"]["content"][0]["text"] == "mine"
        attack.vanish()
        assert (await attack).ended == (guess == "ID"), "it has at most answered itself"


async def test_an_answer_that_comes_after_its_call_was_given_up_answers_no_later_call(bridging, until):
    async with bridging(call_seconds=5) as http:
        (server,) = http.fleet.started
        gone = http.begin(http.call("hold", 1, key="gone"))
        await until(lambda: "gone" in server.held)
        gone.vanish()
        await gone
        later = http.begin(http.call("hold", 1, key="later"))
        await until(lambda: "later" in server.held)
        server.release("gone", "late")
        assert not later.task.done()
        server.release("later", "its own")
        assert (await later).last["result"]["content"][0]["text"] == "its own"


# --- the channel itself ---------------------------------------------------------------------------------------


class Pipe:
    """Stdin of a process, and its transport."""

    def __init__(self):
        self.written = []

    def get_pid(self):
        return 2**22 + 1  # larger than any of Linux's

    def get_pipe_transport(self, fd):
        return self

    def is_closing(self):
        return False

    def get_write_buffer_size(self):
        return 0

    def write(self, line):
        self.written.append(line)


@pytest.fixture
def channel(monkeypatch):
    monkeypatch.setattr("stdio_bridge.process._running", set())
    pipe = Pipe()
    process = Process("1", "mark", None, 1000)
    process.connection_made(pipe)
    return process, pipe


LINES = st.text(alphabet=st.sampled_from('a"{ \t\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029\u00e9\u3042'), max_size=12)


@given(LINES.map(str.encode))
@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_channel_refuses_what_is_more_than_one_line_to_anybody(channel, text):
    process, pipe = channel
    pipe.written.clear()
    line = text + b"\n"
    if len(line.decode().splitlines()) == 1 and not text.endswith(b"\r"):
        assert process.write(line)
        assert pipe.written == [line]
    else:
        with pytest.raises(NotOneLine):
            process.write(line)
        assert pipe.written == []


@pytest.mark.parametrize("line", [b"", b"{}", b"{}\r\n", b"{}\n{}\n", b"\n{}\n"])
def test_the_channel_refuses_what_is_no_line(channel, line):
    with pytest.raises(NotOneLine):
        channel[0].write(line)


async def test_a_call_that_is_not_one_line_is_answered_and_not_sent(channel, caplog):
    process, pipe = channel

    child = Child(None)
    child._channel = process
    call = Call(b"1", "x", b'{"a":\n1}')
    child.submit(call)
    succeeded, error = call.answer
    assert not succeeded
    assert b"not one line" in error
    assert child.calls == {}
    child.notify("x", b'{"a":\r1}')
    assert "Dropped a message" in caplog.text
    assert pipe.written == []


@given(st.text(max_size=60) | st.lists(st.sampled_from(IN_TEXT), max_size=6).map("".join), st.text(max_size=5))
@settings(derandomize=True, deadline=None)
def test_a_log_entry_is_one_line_whatever_it_tells(text, name):
    record = logging.LogRecord(name, logging.INFO, "x", 1, "%s", (text,), None)
    line = logs.CloudLoggingFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text.encode("utf-8", "replace").decode()
