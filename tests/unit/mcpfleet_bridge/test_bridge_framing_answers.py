"""A server's message stays one message on one line, too, and the channel writes nothing else."""

import asyncio
import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mcpfleet_bridge.child import Call, Child
from mcpfleet_bridge.lines import NotOneLineError
from mcpfleet_bridge.process import Process
from mcpfleet_server import logs
from tests.unit.mcpfleet_bridge.framing import FUZZ, IN_TEXT, PLANTED, spaced

pytestmark = pytest.mark.anyio


@FUZZ
@given(data=st.data(), stream=st.booleans())
def test_an_answer_is_one_event_in_any_json_formatting_and_with_any_text(bridging, data, stream):
    planted = "data: {}\u2028\u2028event: message\u2029id: 7\x85: x"
    value = {"content": [{"type": "text", "text": planted}, ...], "data": data.draw(PLANTED)}
    text = data.draw(spaced(value)).replace("\n", " ")  # its lines end there
    answer = f'{{"jsonrpc":"2.0",\r"id":ID,\r"result":{text}}}'.encode()

    async def run():
        async with bridging(call_seconds=5) as http:
            http.fleet.started[0].tool_raw = lambda number, params: http.fleet.started[0].reader.on_line(
                answer.replace(b"ID", b"%d" % number)
            )
            headers = {"accept": "text/event-stream"} if stream else {}
            got = await http.post(http.call("raw"), headers)
            assert got.last["result"] == json.loads(text)
            assert len(got.body.decode().splitlines()) == (3 if stream else 1)

    asyncio.run(run())


@pytest.mark.parametrize("guess", ["ID", "1", "2", '"ID"', "ID.0", "null", "-ID"])
async def test_a_server_that_prints_a_callers_text_cannot_answer_another_call(bridging, wait_until, guess):
    async with bridging(call_seconds=5) as http:
        (server,) = http.fleet.started
        victim_call = http.begin(http.call("hold", "victim", key="v"))
        await wait_until(lambda: server.held)
        # The attacker knows the number of a call of his own, and neighbours of it.
        line = f'{{"jsonrpc":"2.0","id":{guess},"result":{{"content":[{{"type":"text","text":"planted"}}]}}}}'
        attack = http.begin(http.call("raw", "attacker", line=line))
        await wait_until(lambda: server.methods().count("tools/call") == 2)
        for number in range(-10, 200):
            server.reader.on_line(json.dumps({"jsonrpc": "2.0", "id": number, "result": {}}).encode())
        assert not victim_call.task.done()
        server.release("v", "mine")
        assert (await victim_call).last["result"]["content"][0]["text"] == "mine"
        attack.vanish()
        assert (await attack).ended == (guess == "ID"), "it has at most answered itself"


async def test_a_late_answer_to_a_cancelled_call_answers_no_later_call(bridging, wait_until):
    async with bridging(call_seconds=5) as http:
        (server,) = http.fleet.started
        cancelled = http.begin(http.call("hold", 1, key="gone"))
        await wait_until(lambda: "gone" in server.held)
        cancelled.vanish()
        await cancelled
        later = http.begin(http.call("hold", 1, key="later"))
        await wait_until(lambda: "later" in server.held)
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
    monkeypatch.setattr("mcpfleet_bridge.process._running_pids", set())
    pipe = Pipe()
    process = Process("1", "mark", None, 1000)
    process.connection_made(pipe)
    return process, pipe


LINES = st.text(alphabet=st.sampled_from('a"{ \t\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029\u00e9\u3042'), max_size=12)


@given(LINES.map(str.encode))
@settings(derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_channel_refuses_text_with_any_kind_of_line_break(channel, text):
    process, pipe = channel
    pipe.written.clear()
    line = text + b"\n"
    if len(line.decode().splitlines()) == 1 and not text.endswith(b"\r"):
        assert process.write(line)
        assert pipe.written == [line]
    else:
        with pytest.raises(NotOneLineError):
            process.write(line)
        assert pipe.written == []


@pytest.mark.parametrize("line", [b"", b"{}", b"{}\r\n", b"{}\n{}\n", b"\n{}\n"])
def test_the_channel_refuses_anything_but_one_line_with_its_end(channel, line):
    with pytest.raises(NotOneLineError):
        channel[0].write(line)


async def test_a_call_that_is_not_one_line_gets_an_error_and_is_not_sent(channel, caplog):
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
def test_a_log_entry_with_any_text_is_one_line(text, name):
    record = logging.LogRecord(name, logging.INFO, "x", 1, "%s", (text,), None)
    line = logs.CloudLoggingFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["message"] == text.encode("utf-8", "replace").decode()
