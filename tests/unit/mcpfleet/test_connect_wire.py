"""HTTP and event streams as `mcpfleet connect` reads them, in any pieces, on connections that are in memory."""

import asyncio
import os
import sys
import time

import anyio
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet import net
from mcpfleet.auth import IdTokenAuth, IdTokens
from mcpfleet.sse import EventParser
from mcpfleet.target import Target
from mcpfleet.tokens import IdToken
from mcpfleet.upstream import FailedError, Upstream, events

BOUND = 10
ORIGIN = "http://127.0.0.1:8080"
REFUSED = b'www-authenticate: Bearer error="invalid_token"\r\n'
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
def test_events_in_any_chunks_are_the_same_as_httpx2s(parts, sizes):
    text = b"".join(line + end for line, end in parts)
    parser = EventParser()
    fed = [event for piece in pieces(text, sizes) for event in parser.feed(piece)]
    actual = [(event.data.decode(), event.id, event.retry) for event in fed if event.data]
    response = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=text, request=GET)
    expected = [(event.data, event.id, event.retry) for event in httpx2.EventSource(response) if event.data]
    # Those without data say nothing. httpx2 also gives an event that the end cut off, which the standard drops.
    assert actual == expected[: len(actual)]
    assert len(expected) - len(actual) <= 1


@given(st.binary(max_size=80), sizes)
def test_no_bytes_make_the_reader_raise(data, sizes):
    parser = EventParser()
    for piece in pieces(data, sizes):
        list(parser.feed(piece))


@pytest.mark.parametrize("text", ["\u00e9", "\x01", "\u2028", " x ", "a\x85b"])
def test_an_event_id_that_is_no_valid_header_value_is_ignored(text):
    (event,) = EventParser().feed(f"id: 7\nid: {text}\ndata: x\n\n".encode())
    assert event.id == ""


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 400, "1" + "0" * 20])
def test_an_excessive_retry_time_is_ignored(digits):
    (event,) = EventParser().feed(f"retry: {digits}\ndata: x\n\n".encode())
    assert event.retry is None


class Line(anyio.abc.ByteStream):
    """A connection in memory: it records written bytes, and returns what the test sends as the server.

    It stands in for its own socket, too. A pipe is what it can be asked by whether there is something to read.
    """

    def __init__(self):
        if sys.platform == "win32":
            pytest.skip("Windows cannot be asked of a pipe whether there is something to read")
        self.sent = b""
        self.taken = 0
        self.closed = False
        self.options = set()
        self._said = asyncio.Queue()
        self._written = asyncio.Event()
        self._readable, self._end = os.pipe()
        self._raw_socket = self

    @property
    def extra_attributes(self):
        return {anyio.abc.SocketAttribute.raw_socket: lambda: self}

    def fileno(self):
        return self._readable

    def setsockopt(self, *option):
        self.options.add(option)

    def say(self, *pieces):
        """Have the client receive bytes, or an exception."""
        for piece in pieces:
            self._said.put_nowait(piece)

    def hang_up(self):
        """End the server's side."""
        self._said.put_nowait(anyio.EndOfStream())
        if self._end is not None:
            os.close(self._end)
        self._end = None

    async def wait_for_request(self):
        """Wait until something is written after the last call."""
        await asyncio.wait_for(self._written.wait(), BOUND)
        self._written.clear()

    async def receive(self, max_bytes=65536):
        piece = await self._said.get()
        if isinstance(piece, Exception):
            raise piece
        self.taken += len(piece)
        return piece

    async def send(self, item):
        self.sent += item
        self._written.set()

    async def send_eof(self):
        raise AssertionError("nobody ends one half")

    async def aclose(self):
        self.closed = True
        for event in (self._readable, self._end):
            if event is not None:
                os.close(event)
        self._readable, self._end = -1, None


class Network:
    """Connections that are made in memory, in the place of TCP's.

    Attributes:
        lines: Every connection so far.
        failure: Raised instead of making one.
    """

    def __init__(self):
        self.lines = []
        self.failure = None

    async def connect(self, **_address):
        if self.failure is not None:
            raise self.failure
        self.lines.append(Line())
        return self.lines[-1]

    async def wait_for_request(self, count=1):
        """Wait until the newest of *count* connections gets a request after the last call."""
        async with asyncio.timeout(BOUND):
            while len(self.lines) < count:  # noqa: ASYNC110 - nothing to wait for: it comes in some turns of the loop
                await asyncio.sleep(0)
        await self.lines[-1].wait_for_request()
        return self.lines[-1]


@pytest.fixture
def network(monkeypatch):
    network_created = Network()
    monkeypatch.setattr(anyio, "connect_tcp", network_created.connect)
    return network_created


@pytest.fixture
def auth(source, clock):
    return IdTokenAuth(ORIGIN, tokens=IdTokens(source, ORIGIN, clock=clock, start=lambda work: work()))


@pytest.fixture
async def upstream(auth):
    network_created = Upstream(Target.parse(f"{ORIGIN}/mcp?x=1"), auth, wall=lambda: 0.0, clock=lambda: 0.0)
    yield network_created
    await network_created.aclose()


def answer(body, *, chunked=False, status=b"200 OK", more=b""):
    head = b"HTTP/1.1 " + status + b"\r\ncontent-type: application/json\r\n" + more
    if chunked:
        parts = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in body)
        return head + b"transfer-encoding: chunked\r\n\r\n" + parts + b"0\r\n\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


class Held:
    """An identity that has one token."""

    def fetch(self, _audience):
        return IdToken("a.b.c", expires_at=1e9)


async def asking(upstream, headers=None):
    async with upstream.send("POST", headers or {"accept": "*/*"}, b"{}") as reply:
        return reply.status_code, reply.headers, await reply.aread()


async def exchange(network, upstream, *pieces, lines=1):
    """Send a request on the newest connection, which answers in these chunks; return status, headers and body."""
    task = asyncio.ensure_future(asking(upstream))
    (await network.wait_for_request(lines)).say(*pieces)
    return await asyncio.wait_for(task, BOUND)


@given(st.binary(max_size=60), st.lists(st.binary(min_size=1, max_size=9), max_size=6), sizes)
def test_a_response_is_the_same_in_any_chunks(body, chunks, sizes):
    network_created = Network()
    auth = IdTokenAuth(ORIGIN, tokens=IdTokens(Held(), ORIGIN, clock=lambda: 0.0, start=lambda work: work()))

    async def run():
        upstream = Upstream(Target.parse(ORIGIN), auth, wall=lambda: 0.0, clock=lambda: 0.0)
        first = await exchange(network_created, upstream, *pieces(answer(body), sizes))
        second = await exchange(network_created, upstream, *pieces(answer(chunks, chunked=True), sizes))
        await upstream.aclose()
        return first, second

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "connect_tcp", network_created.connect)
        (status, headers, complete), (_, _, joined) = asyncio.run(run())
    assert (status, headers["content-type"], complete) == (200, "application/json", body)
    assert joined == b"".join(chunks)
    assert len(network_created.lines) == 1, "the connection was used again"


async def test_an_interim_response_is_skipped(network, upstream):
    data = b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + answer(b"{}")
    status, headers, body = await exchange(network, upstream, data)
    assert (status, "link" in headers, body) == (200, False, b"{}")


async def test_closed_and_long_idle_connections_are_not_reused(network, upstream, monkeypatch):
    await exchange(network, upstream, answer(b"1", more=b"connection: close\r\n"))
    await exchange(network, upstream, answer(b"2"), lines=2)
    network.lines[1].hang_up()
    await exchange(network, upstream, answer(b"3"), lines=3)
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + net.IDLE_SECONDS)
    await exchange(network, upstream, answer(b"4"), lines=4)
    await exchange(network, upstream, answer(b"5"), lines=4)
    assert [line.closed for line in network.lines] == [True, True, True, False]


async def test_tcp_keepalive_ends_a_connection_to_a_lost_peer(network, upstream):
    await exchange(network, upstream, answer(b"{}"))
    assert network.lines[0].options


async def test_a_response_without_a_length_ends_with_its_connection(network, upstream):
    task = asyncio.ensure_future(asking(upstream))
    line = await network.wait_for_request()
    line.say(b"HTTP/1.1 200 OK\r\n\r\nhalf")
    line.hang_up()
    assert (await asyncio.wait_for(task, BOUND))[2] == b"half"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha",
    ],
)
async def test_a_truncated_response_is_an_error(network, upstream, data):
    task = asyncio.ensure_future(asking(upstream))
    line = await network.wait_for_request()
    line.say(*[data] if data else [])
    line.hang_up()
    with pytest.raises(FailedError, match="broke off") as raised:
        await asyncio.wait_for(task, BOUND)
    assert raised.value.may_be_done


@pytest.mark.parametrize(
    "data",
    [
        [b"SSH-2.0-OpenSSH\r\n\r\n"],
        [b"\x00\xff" * 40_000],
        [b"HTTP/1.1 200 OK\r\n", *[b"x: %s\r\n" % (b"y" * 60_000)] * 9],
        [b"HTTP/1.1 2000 \x1b[2J" + b"z" * 9000 + b"\r\n\r\n"],
    ],
)
async def test_invalid_http_ends_the_connection_with_a_one_line_error(network, upstream, data):
    with pytest.raises(FailedError) as raised:
        await exchange(network, upstream, *data)
    assert network.lines[0].closed
    assert len(str(raised.value)) < 1000
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("head", [[], [b"HTTP/1.1 200 OK\r\nx: "], [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 100])
async def test_a_response_that_does_not_begin_in_time_is_an_error(network, auth, head, monkeypatch):
    monkeypatch.setenv("MCPFLEET_ANSWER_SECONDS", "0.1")
    upstream = Upstream(Target.parse(ORIGIN), auth)
    with pytest.raises(FailedError, match="MCPFLEET_ANSWER_SECONDS") as raised:
        await exchange(network, upstream, *head)
    assert raised.value.may_be_done
    assert network.lines[0].closed


async def test_a_reader_that_leaves_early_closes_the_connection(network, upstream):
    async def leave():
        async with upstream.send("POST", {}, b"x") as reply:
            return reply.status_code

    task = asyncio.ensure_future(leave())
    (await network.wait_for_request()).say(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
    assert await asyncio.wait_for(task, BOUND) == 200
    assert network.lines[0].closed


async def test_a_slow_reader_pauses_the_sender(network, upstream):
    head, _, body = answer(b"x" * (1 << 20)).partition(b"\r\n\r\n")
    holding = asyncio.Event()

    async def ask():
        async with upstream.send("POST", {}, b"{}") as reply:
            blocked.set_result(network.lines[0].taken)
            await holding.wait()
            return len(await reply.aread())

    blocked = asyncio.get_running_loop().create_future()
    task = asyncio.ensure_future(ask())
    (await network.wait_for_request()).say(head + b"\r\n\r\n", *pieces(body, [65536] * 16))
    assert await asyncio.wait_for(blocked, BOUND) < 65536
    holding.set()
    assert await asyncio.wait_for(task, BOUND) == len(body)


# --- with the token, and what a failure means ----------------------------------------------------------


async def test_the_events_of_a_stream_arrive_separately(network, upstream):
    async def ask():
        async with upstream.send("POST", {}, b"{}") as reply:
            return [event.data async for event in events(reply)]

    task = asyncio.ensure_future(ask())
    stream = answer([b"data: {}\n", b"\n"], chunked=True).replace(b"application/json", b"text/event-stream")
    (await network.wait_for_request()).say(stream)
    assert await asyncio.wait_for(task, BOUND) == [b"{}"]


async def test_a_request_has_its_length_host_and_token(network, upstream, google):
    await exchange(network, upstream, answer(b"{}"))
    head, _, body = network.lines[0].sent.decode().partition("\r\n\r\n")
    first, *rest = head.split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
    assert first == "POST /mcp HTTP/1.1"
    assert google.verify(headers.pop("x-serverless-authorization"), ORIGIN)
    assert headers == {"host": "127.0.0.1:8080", "accept": "*/*", "content-length": "2"}
    assert body == "{}"


async def test_a_refused_token_is_renewed_and_the_request_is_sent_once_more(network, upstream, clock, source):
    await exchange(network, upstream, answer(b""))
    clock.advance(600)
    task = asyncio.ensure_future(asking(upstream))
    (await network.wait_for_request()).say(answer(b"<html>", status=b"401 Unauthorized", more=REFUSED))
    (await network.wait_for_request()).say(answer(b""))
    assert (await asyncio.wait_for(task, BOUND))[0] == 200
    assert source.fetched == 2
    assert len(network.lines) == 1


@pytest.mark.parametrize("value", ["x\r\nx-serverless-authorization: Bearer y", "\x00", "\u00e9", " x", "x\x7f"])
async def test_an_invalid_header_value_is_not_sent(network, upstream, value):
    with pytest.raises(FailedError, match="control characters") as failure:
        await asking(upstream, {"mcp-protocol-version": value})
    assert (failure.value.may_be_done, failure.value.is_final) == (False, True)
    assert not any(line.sent for line in network.lines)


@pytest.mark.parametrize("failure", [ConnectionRefusedError(111, "Connection refused"), TimeoutError()])
async def test_a_request_that_could_not_connect_was_not_executed(network, upstream, failure):
    network.failure = failure
    with pytest.raises(FailedError, match="Cannot reach") as raised:
        await asking(upstream)
    assert (raised.value.may_be_done, raised.value.is_final) == (False, False)


async def test_a_request_whose_connection_was_lost_may_have_been_executed(network, upstream):
    with pytest.raises(FailedError, match="without a response") as raised:
        await exchange(network, upstream, anyio.BrokenResourceError())
    assert raised.value.may_be_done
    assert len(network.lines) == 1, "and it was not sent again"
