"""Connections of the server and the bridge: buffered bytes are limited, and trailers are not headers."""

import asyncio

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.server import ServerState

from mcpfleet_server.connection import MAX_HEAD_BYTES, Connection

HEAD = b"POST /mcp HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n"


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self):
        super().__init__()
        self.written, self.closed, self.reads = b"", False, True

    def write(self, data):
        assert not self.closed, "uvloop would raise"
        self.written += bytes(data)

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        assert not self.closed, "uvloop would raise"
        self.reads = False

    def resume_reading(self):
        assert not self.closed, "uvloop would raise"
        self.reads = True


def made(application):
    """A connection to the application, and its transport."""
    config = uvicorn.Config(application, http=Connection, ws="none", lifespan="off", log_config=None)
    config.load()
    connection, wire = Connection(config, ServerState(), {}), Wire()
    connection.connection_made(wire)
    return connection, wire


def sent(*pieces, answer=True):
    """Send pieces to an application; returns the transport, the connection, and the headers of each request."""
    heard = []

    async def application(scope, receive, send):
        heard.append(dict(scope["headers"]))
        while answer and (await receive()).get("more_body"):
            pass
        if answer:
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await asyncio.Event().wait()

    async def run():
        connection, wire = made(application)
        for piece in pieces:
            if wire.reads and not wire.closed:
                connection.data_received(piece)
                await asyncio.sleep(0)
        for _ in range(500):
            await asyncio.sleep(0)
        closed = wire.closed
        connection.connection_lost(None)
        wire.closed = closed  # it closes in any case
        for task in list(connection.tasks):
            task.cancel()
        return wire, len(connection.pipeline), heard

    return asyncio.run(run())


@pytest.mark.parametrize("start", [HEAD + b"X: ", HEAD + b"X", b"GET /mcp?"], ids=["value", "name", "path"])
def test_a_head_without_end_is_refused_at_its_bound(start):
    wire, _, heard = sent(start, *[b"a" * 65_536] * 8)
    assert wire.written.startswith(b"HTTP/1.1 431 ")
    assert wire.closed
    assert heard == []


@pytest.mark.parametrize("start", [b"0\r\nX: ", b"2;"], ids=["trailer", "chunk extension"])
def test_what_follows_a_body_without_end_is_cut_off_at_its_bound(start):
    wire, _, _ = sent(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + start, *[b"a" * 65_536] * 8, answer=False)
    assert wire.closed


def test_a_large_head_and_a_larger_body_pass():
    body = b"{}" * MAX_HEAD_BYTES
    head = HEAD + b"X: " + b"a" * 100_000 + b"\r\nContent-Length: %d\r\n\r\n" % len(body)
    wire, _, _ = sent(head[:50_000], head[50_000:], body[:MAX_HEAD_BYTES], body[MAX_HEAD_BYTES:])
    assert wire.written.startswith(b"HTTP/1.1 204 ")
    assert not wire.closed


def test_requests_whose_heads_lie_across_reads_are_not_taken_for_one_long_head():
    request = HEAD + b"Content-Length: 20000\r\n\r\n" + b" " * 20_000
    pieces = [request[:40], *[request[40:] + request[:40]] * 30, request[40:]]
    wire, _, heard = sent(*pieces)
    assert (len(heard), wire.closed) == (31, False)


def test_requests_that_wait_on_one_connection_are_bounded():
    request = HEAD + b"Content-Length: 0\r\n\r\n"
    wire, waiting, _ = sent(*[request * 50] * 20, answer=False)
    assert waiting < 50
    assert not wire.reads


def test_all_that_waited_are_answered_and_then_more_is_read():
    request = HEAD + b"Content-Length: 0\r\n\r\n"
    wire, waiting, heard = sent(request * 100)
    assert (len(heard), waiting, wire.closed) == (100, 0, False)
    assert wire.reads


def test_each_request_on_a_connection_hears_that_its_client_is_gone():
    heard = []

    async def application(scope, receive, send):
        await receive()
        heard.append((await receive())["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})

    async def run():
        connection, wire = made(application)
        connection.data_received((HEAD + b"Content-Length: 0\r\n\r\n") * 3)
        await asyncio.sleep(0)
        running = list(connection.tasks)
        wire.close()
        connection.connection_lost(None)
        await asyncio.wait_for(asyncio.gather(*running), 5)

    asyncio.run(run())
    assert heard == ["http.disconnect"]


def test_a_trailer_is_no_header():
    _, _, (headers,) = sent(CHUNKED + b"X-Serverless-Authorization: Bearer x\r\nHost: evil\r\n\r\n")
    assert headers == {b"host": b"localhost", b"transfer-encoding": b"chunked"}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([HEAD, CHUNKED, b"\r\n", b"Content-Length: 2\r\n", b"a: b\r\n"]) | st.binary(), max_size=8)
)
def test_any_bytes_are_answered_or_waited_for_and_no_more(pieces):
    wire, waiting, _ = sent(*pieces)
    assert b"HTTP/1.1 500 " not in wire.written
    assert waiting <= len(pieces) * 10
