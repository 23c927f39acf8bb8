"""HTTP and event streams as `mcpfleet connect` reads them, in any pieces: checked against httpx2's own readers."""

import asyncio

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet import wire
from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.sse import Parser
from mcpfleet.target import Target
from mcpfleet.upstream import FailedError, Upstream, events

BOUND = 10
ORIGIN = "http://127.0.0.1:8080"
GET = httpx2.Request("GET", ORIGIN)

pytestmark = pytest.mark.anyio


def pieces(data, sizes):
    for size in sizes:
        if data:
            yield data[:size]
            data = data[size:]
    if data:
        yield data


LINES = [b"data: {}", b"data:x", b"data", b"data: ", b": keep-alive", b"id: 7", b"id", b"retry: 10", b"retry: x"]
lines = st.sampled_from([*LINES, b"event: message", b"", b"", b"\xc3\xb6: 1", b"data: \xc3\xb6"])
sizes = st.lists(st.integers(1, 9), max_size=60)


@given(st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12), sizes)
def test_events_are_those_that_httpx2_reads_however_the_bytes_arrive(parts, sizes):
    text = b"".join(line + end for line, end in parts)
    parser = Parser()
    fed = [one for piece in pieces(text, sizes) for one in parser.feed(piece)]
    found = [(one.data.decode(), one.id, one.retry) for one in fed if one.data]
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=text, request=GET)
    theirs = [(one.data, one.id, one.retry) for one in httpx2.EventSource(response) if one.data]
    # Those without data say nothing. httpx2 also gives an event that the end cut off, which the standard drops.
    assert found == theirs[: len(found)]
    assert len(theirs) - len(found) <= 1


@given(st.binary(max_size=80), sizes)
def test_no_bytes_make_the_reader_raise(data, sizes):
    parser = Parser()
    for piece in pieces(data, sizes):
        list(parser.feed(piece))


@pytest.mark.parametrize("text", ["\u00e9", "\x01", "\u2028", " x ", "a\x85b"])
def test_an_id_that_no_header_can_carry_back_is_none(text):
    (event,) = Parser().feed(f"id: 7\nid: {text}\ndata: x\n\n".encode())
    assert event.id == ""


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 400, "1" + "0" * 20])
def test_a_time_to_wait_that_is_beyond_all_measure_is_not_believed(digits):
    (event,) = Parser().feed(f"retry: {digits}\ndata: x\n\n".encode())
    assert event.retry is None


class Line:
    """The other end of a connection, in memory: takes what is written, answers when told."""

    def __init__(self, written):
        self.written = written
        self.sent = b""
        self.fresh = False
        self.closed = False
        self.reading = True

    def write(self, data):
        self.sent += data
        self.fresh = True
        self.written()

    def is_closing(self):
        return self.closed

    def abort(self):
        self.closed = True

    def pause_reading(self):
        self.reading = False

    def resume_reading(self):
        self.reading = True

    def get_extra_info(self, name):
        return None


class Network:
    """Connections that are made in memory; each has its `line`.

    Attributes:
        made: Every connection so far.
        failure: Raised instead of making one.
        greeting: What each new connection receives as soon as something was written to it.
    """

    def __init__(self):
        self.made = []
        self.failure = None
        self.greeting = b""

    async def asked(self, asking):
        """The newest connection, once something was written to it since this was asked last."""
        async with asyncio.timeout(BOUND):
            while not (self.made and self.made[-1].line.fresh):
                assert not asking.done()
                await asyncio.sleep(0)
        self.made[-1].line.fresh = False
        return self.made[-1]

    async def dial(self, factory, *_address):
        if self.failure is not None:
            raise self.failure
        connection = factory()
        connection.line = Line(lambda: self.greeting and connection.data_received(self.greeting))
        connection.connection_made(connection.line)
        self.made.append(connection)
        return connection.line, connection


@pytest.fixture
def network(monkeypatch):
    made = Network()
    monkeypatch.setattr(wire, "dial", made.dial)
    return made


def answer(body, *, chunked=False, status=b"200 OK", more=b""):
    head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n" + more
    if chunked:
        parts = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in body)
        return head + b"transfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


async def exchange(network, out, data, sizes=()):
    """One request over *out*, answered by *data* in pieces of these sizes."""

    async def ask():
        async with out.send(b"POST /mcp HTTP/1.1\r\n\r\n", b"{}") as reply:
            return reply.status_code, dict(reply.headers), await reply.aread()

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    connection = network.made[-1]
    for piece in pieces(data, sizes):
        connection.data_received(piece)
        await asyncio.sleep(0)
    return await asyncio.wait_for(asking, BOUND)


@given(st.binary(max_size=60), st.lists(st.binary(min_size=1, max_size=9), max_size=6), sizes)
def test_an_answer_is_the_same_however_its_bytes_arrive(body, chunks, sizes):
    made = Network()

    async def run():
        out = wire.Wire(httpx2.URL(ORIGIN))
        first = await exchange(made, out, answer(body), sizes)
        return first, await exchange(made, out, answer(chunks, chunked=True), sizes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "dial", made.dial)
        (status, headers, whole), (_, _, joined) = asyncio.run(run())
    assert (status, headers["content-type"], whole) == (200, "application/json", body)
    assert joined == b"".join(chunks)
    assert len(made.made) == 1, "the connection was used again"


async def test_an_interim_answer_is_passed_over(network):
    data = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(b"{}")
    status, headers, body = await exchange(network, wire.Wire(httpx2.URL(ORIGIN)), data)
    assert (status, "link" in headers, body) == (200, False, b"{}")


async def test_a_connection_that_the_server_closed_or_that_lay_idle_too_long_is_not_used_again(network):
    moment = [0.0]
    out = wire.Wire(httpx2.URL(ORIGIN), clock=lambda: moment[0])
    await exchange(network, out, answer(b"1", more=b"connection: close\r\n"))
    await exchange(network, out, answer(b"2"))
    network.made[1].connection_lost(None)
    await exchange(network, out, answer(b"3"))
    moment[0] = wire.IDLE_SECONDS
    await exchange(network, out, answer(b"4"))
    await exchange(network, out, answer(b"5"))
    assert len(network.made) == 4


async def test_an_answer_without_a_length_ends_with_its_connection(network):
    out = wire.Wire(httpx2.URL(ORIGIN))

    async def ask():
        async with out.send(b"", b"") as reply:
            return await reply.aread()

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    network.made[0].data_received(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    network.made[0].connection_lost(None)
    assert await asyncio.wait_for(asking, BOUND) == b"half"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha",
    ],
)
async def test_an_answer_that_breaks_off_is_not_taken_for_whole(network, data):
    out = wire.Wire(httpx2.URL(ORIGIN))

    async def ask():
        async with out.send(b"", b"") as reply:
            return await reply.aread()

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    if data:
        network.made[0].data_received(data)
    network.made[0].connection_lost(None)
    with pytest.raises(wire.BrokenError):
        await asyncio.wait_for(asking, BOUND)


async def test_what_is_no_http_ends_the_connection(network):
    with pytest.raises(wire.BrokenError):
        await exchange(network, wire.Wire(httpx2.URL(ORIGIN)), b"SSH-2.0-OpenSSH\r\n")
    assert network.made[0].line.closed


async def test_a_client_that_leaves_early_closes_the_connection(network):
    network.greeting = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"
    async with wire.Wire(httpx2.URL(ORIGIN)).send(b"", b"x") as reply:
        pass
    assert reply.status_code == 200
    assert network.made[0].line.closed


async def test_a_reader_that_is_slow_stops_the_sender(network):
    out = wire.Wire(httpx2.URL(ORIGIN))
    big = b"x" * (1 << 20)

    async def ask():
        async with out.send(b"", b"") as reply:
            await holding.wait()
            return len(await reply.aread())

    holding = asyncio.Event()
    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    network.made[0].data_received(answer(big))
    assert not network.made[0].line.reading
    holding.set()
    assert await asyncio.wait_for(asking, BOUND) == len(big)
    assert network.made[0].line.reading


# --- with the token, and what a failure means ----------------------------------------------------------


@pytest.fixture
def upstream(source, clock):
    auth = IdTokenAuth(ORIGIN, tokens=IdTokens(source, ORIGIN, clock=clock, start=lambda work: work()))
    return Upstream(Target.parse(f"{ORIGIN}/mcp?x=1"), auth, wall=lambda: 0.0, clock=lambda: 0.0)


async def answered(network, upstream, *answers, headers=None):
    async def ask():
        async with upstream.send("POST", headers or {"accept": "*/*"}, b"{}") as reply:
            return reply.status_code, [event.data async for event in events(reply)]

    asking = asyncio.ensure_future(ask())
    for data in answers:
        connection = await network.asked(asking)
        connection.data_received(data)
    return await asyncio.wait_for(asking, BOUND)


async def test_the_request_is_written_with_its_length_its_host_and_its_token(network, upstream, google):
    status, found = await answered(network, upstream, answer([b"data: {}\n", b"\n"], chunked=True))
    assert (status, found) == (200, [b"{}"])
    head, _, body = network.made[0].line.sent.decode().partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    headers = dict(line.split(": ", 1) for line in rest)
    assert first == "POST /mcp HTTP/1.1"
    assert google.verify(headers.pop("X-Serverless-Authorization"), ORIGIN)
    assert headers == {"host": "127.0.0.1:8080", "accept": "*/*", "content-length": "2"}
    assert body == "{}"


async def test_a_token_that_was_refused_is_renewed_and_the_request_sent_once_more(network, upstream, clock, source):
    await answered(network, upstream, answer(b""))
    clock.advance(600)
    refused = answer(b"<html>", status=b"401 Unauthorized", more=b'www-authenticate: Bearer error="invalid_token"\r\n')
    assert (await answered(network, upstream, refused, answer(b"")))[0] == 200
    assert source.fetched == 2
    assert len(network.made) == 1


async def test_a_value_that_would_begin_another_header_is_not_sent(network, upstream):
    with pytest.raises(FailedError, match="control characters") as failure:
        await answered(network, upstream, headers={"mcp-protocol-version": "x\r\nx-serverless-authorization: Bearer y"})
    assert (failure.value.done, failure.value.final) == (False, True)
    assert network.made == []


@pytest.mark.parametrize("failure", [ConnectionRefusedError(111, "Connection refused"), TimeoutError()])
async def test_a_request_that_found_no_connection_was_not_carried_out(network, upstream, failure):
    network.failure = failure
    with pytest.raises(FailedError, match="Cannot reach") as raised:
        await answered(network, upstream)
    assert (raised.value.done, raised.value.final) == (False, False)


async def test_a_request_whose_connection_broke_may_have_been_carried_out(network, upstream):
    async def ask():
        async with upstream.send("POST", {}, b"{}"):
            pass

    asking = asyncio.ensure_future(ask())
    (await network.asked(asking)).connection_lost(ConnectionResetError(104, "Connection reset by peer"))
    with pytest.raises(FailedError, match="without an answer") as raised:
        await asyncio.wait_for(asking, BOUND)
    assert raised.value.done
