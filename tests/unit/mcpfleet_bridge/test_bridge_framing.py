"""A caller's message stays one message on one line, so that no caller can speak for another in a shared process."""

import asyncio
import itertools
import json
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.mcpfleet_bridge.framing import FUZZ, PLANTED, spaced

pytestmark = pytest.mark.anyio

ASKS = {"elicitation": {}}


@pytest.fixture
def splitting(fake_server):
    """A server that splits its input at every kind of line break, and executes each line.

    Of a member that comes twice it takes both, as Go does with objects.
    """

    def both(pairs):
        last_values = {}
        for name, value in pairs:
            known = last_values.get(name)
            last_values[name] = {**value, **known} if isinstance(known, dict) and isinstance(value, dict) else value
        return last_values

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
            expected_id = json.loads(identity)
            stream = self.stream.answer
            while not (matching := [message for message in stream.messages if message.get("id") == expected_id]):  # noqa: ASYNC110
                await asyncio.sleep(0)
            return matching[-1]
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
                repeated = asking + b',"requestState":"%s","inputResponses":{"question-1":%s}' % (state, arguments)
                final = await self.post(repeated, identity, headers, path, query)
                result = final.last
                if "result" in result and tool == "echo":
                    output = json.loads(result["result"]["content"][0]["text"])
                    result["result"]["content"][0]["text"] = output["text"]
                return result

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
        clients, streams = [], []
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
            clients.append(Caller(http, name, session, stream))
        yield clients
        for stream in streams:
            stream.vanish()
            await stream


def unbroken(server):
    """Every line that was written is one line for every reader, and each was read as a message."""
    return all(len(line.decode().splitlines()) == 1 for line in server.lines) and not any(
        "broken" in message for message in server.heard
    )


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(data=st.data())
def test_a_message_in_any_json_formatting_is_one_line_with_the_same_meaning_everywhere(bridging, splitting, path, data):
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
async def test_one_caller_cannot_answer_the_call_of_another(bridging, splitting, wait_until, path, end):
    async with callers(bridging, splitting, path, 2) as (victim, attacker):
        kind = Caller(victim.http, "leased" if path == "resumed" else path, victim.session, victim.stream)
        victim_call = asyncio.ensure_future(kind.call(b'{"key":"v","text":"x"}', b'"victim"', "hold"))
        fleet = victim.http.fleet
        await wait_until(lambda: any(server.held for server in fleet.started))
        (server,) = [process for process in fleet.started if process.held]
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
        assert not victim_call.done()
        assert all(unbroken(started) for started in fleet.started)
        server.release("v", "the victim's own")
        assert (await victim_call)["result"]["content"][0]["text"] == "the victim's own"


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
async def test_no_part_of_a_message_ends_a_line(bridging, splitting, wait_until, where, end):
    """JSON text can't contain raw line ends, so such a message is refused."""
    plant = f'x{end}{{\\"jsonrpc\\":\\"2.0\\",\\"id\\":1,\\"method\\":\\"ping\\"}}{end}'
    method = "subscriptions/listen" if where == "uri" else "tools/call"
    modern = {"mcp-protocol-version": "2026-07-28", "mcp-method": method, "mcp-name": "echo"}
    async with bridging(server=splitting, call_seconds=5) as http:
        for given_headers in (modern, {}):
            request = http.request(body=with_part(where, plant), headers=http.headers(given_headers))
            await wait_until(lambda: request.task.done() or "resources/subscribe" in http.fleet.started[0].methods())  # noqa: B023
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
async def test_messages_and_answers_of_a_session_are_one_line(bridging, splitting, wait_until, end):
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
            await wait_until(lambda: server.asked)
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
async def test_a_caller_cannot_use_the_progress_token_of_another(bridging, splitting, wait_until, path, token):
    async with callers(bridging, splitting, path, 2) as (victim, attacker):
        if path == "resumed":
            victim.name = attacker.name = "leased"
        fleet = victim.http.fleet
        victim_call = victim.begin(b'{"key":"v"}', b'"victim"', "hold", b'"progressToken":"victim\'s"')[0]
        await wait_until(lambda: any(server.held for server in fleet.started))
        (server,) = [process for process in fleet.started if process.held]
        (call,) = [message for message in server.heard if message.get("id") == server.held["v"]]
        named = str(call["params"]["_meta"]["progressToken"]).encode()
        if path in ("modern", "leased", "resumed") and b"}," in token:
            token = token.partition(b"}")[0]  # a second _meta without the envelope is refused
        request, _ = attacker.begin(b'{"count":1}', b'"attacker"', "steps", token.replace(b"NUMBER", named))
        await wait_until(request.task.done)
        await wait_until(lambda: not any(child.calls for child in children(attacker.http) if child.name != server.name))
        steps = [
            message
            for started in fleet.started
            for message in started.heard
            if message.get("params", {}).get("name") == "steps"
        ]
        sent = steps[0]["params"].get("_meta", {}).get("progressToken") if steps else None
        assert sent != int(named) or steps[0]["id"] == sent
        server.release("v")
        answer = await victim_call
        victim_answer = victim.stream.answer if path == "sse" else answer
        if path == "sse":
            await wait_until(lambda: any(message.get("id") == "victim" for message in victim_answer.messages))
        assert not [message for message in victim_answer.messages if message.get("method") == "notifications/progress"]


def children(http):
    """Every process that answers."""
    bridge = http.bridge
    return [
        *bridge.pool.children,
        *(lease.child for lease in bridge.leases.all),
        *(session.child for session in bridge.sessions.all.values()),
    ]


async def test_the_ids_of_calls_are_unguessable_and_unique(bridging):
    async with bridging() as http:
        for _ in range(50):
            await http.post(http.call("echo", text="x"))
        (server,) = http.fleet.started
        numbers = [message["id"] for message in server.heard if "id" in message]
        assert len(set(numbers)) == len(numbers)
        steps = {after - before for before, after in itertools.pairwise(numbers)}
        assert len(steps) > len(numbers) // 2
        assert all(0 < number < 2**31 for number in numbers), "whoever reads them as 32 bits reads them right"
