"""The connection in front of every app: ungranted upgrades, heads without end. No socket: bytes in, bytes out."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from mcpfleet_local_cloud.network import http_protocol
from mcpfleet_local_cloud.network.http_protocol import HEAD_LIMIT, FrontEndProtocol

# What Java's HTTP client adds to each request to an `http:` address.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"
HOST = b"Host: service\r\n"


class Wire(asyncio.Transport):
    """Keeps what was sent."""

    def __init__(self):
        super().__init__({"sockname": ("127.0.0.1", 1), "peername": ("127.0.0.1", 2)})
        self.sent = b""
        self.closing = False

    def write(self, data):
        self.sent += bytes(data)

    def close(self):
        self.closing = True

    def is_closing(self):
        return self.closing

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def echo(scope, receive, send):
    """Answer with the request's target, its `Upgrade` and its body."""
    body = b""
    while True:
        message = await receive()
        assert message["type"] == "http.request"
        body += message["body"]
        if not message["more_body"]:
            break
    asked = dict(scope["headers"]).get(b"upgrade", b"-")
    answer = b"|".join([scope["method"].encode(), scope["raw_path"], scope["query_string"], asked, body])
    length = str(len(answer)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture
def exchange():
    """Send pieces over one connection, each after the app has done what it could; returns what came back."""

    def run(*pieces):
        async def scenario():
            config = uvicorn.Config(echo, ws="none", lifespan="off", log_config=None, date_header=False)
            config.load()
            wire = Wire()
            protocol = FrontEndProtocol(config, ServerState(), {}, asyncio.get_running_loop())
            protocol.connection_made(wire)
            for piece in pieces:
                if not wire.closing:
                    protocol.data_received(piece)
                for _ in range(20):
                    await asyncio.sleep(0)
            protocol.connection_lost(None)
            return wire

        return asyncio.run(scenario())

    return run


def request(body=b"", headers=b"", line=b"POST /mcp?a=b HTTP/1.1"):
    length = b"content-length: %d\r\n" % len(body) if body else b""
    return line + b"\r\n" + HOST + headers + length + b"\r\n" + body


def bodies(wire):
    return [part.partition(b"\r\n\r\n")[2] for part in wire.sent.split(b"HTTP/1.1 200 OK")[1:]]


def test_a_request_with_an_upgrade_header_keeps_its_body(exchange):
    assert bodies(exchange(request(b"hello", H2C))) == [b"POST|/mcp|a=b|h2c|hello"]


def test_a_connection_continues_after_a_request_with_an_upgrade_header(exchange):
    asking, plain = request(b"one", H2C), request(b"two")
    expected = [b"POST|/mcp|a=b|h2c|one", b"POST|/mcp|a=b|-|two", b"POST|/mcp|a=b|h2c|one"]
    assert bodies(exchange(asking, plain, asking)) == expected
    assert bodies(exchange(asking + plain + asking)) == expected, "also when all of them arrive at once"


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_a_request_with_an_upgrade_header_may_arrive_in_pieces(exchange, size):
    whole = request(b"hello", H2C) + request(b"again", H2C)
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert bodies(exchange(*pieces)) == [b"POST|/mcp|a=b|h2c|hello", b"POST|/mcp|a=b|h2c|again"]


def test_a_chunked_request_with_an_upgrade_header_keeps_its_body(exchange):
    head = request(headers=H2C + b"transfer-encoding: chunked\r\n")
    assert bodies(exchange(head + b"5\r\nhello\r\n0\r\n\r\n")) == [b"POST|/mcp|a=b|h2c|hello"]


@pytest.mark.parametrize(
    "connection", [b"connection: upgrade\r\n", b"Connection: keep-alive,  UPGRADE\r\nConnection: Upgrade\r\n"]
)
def test_the_application_sees_the_upgrade_header(exchange, connection):
    wire = exchange(request(headers=connection + b"Upgrade: websocket\r\n", line=b"GET / HTTP/1.1"))
    assert bodies(wire) == [b"GET|/||websocket|"]


@pytest.mark.parametrize("target", [b"evil:443", b"/"])
@pytest.mark.parametrize("headers", [b"", H2C])
def test_the_method_connect_is_refused(exchange, target, headers):
    wire = exchange(request(headers=headers, line=b"CONNECT " + target + b" HTTP/1.1"))
    assert wire.sent.startswith(b"HTTP/1.1 400 ")
    assert wire.closing


def test_request_headers_up_to_the_limit_are_accepted(exchange):
    padding = b"x-padding: " + b"a" * (HEAD_LIMIT - 200) + b"\r\n"
    assert bodies(exchange(request(b"hello", padding))) == [b"POST|/mcp|a=b|-|hello"]


@pytest.mark.parametrize(
    "head",
    [
        request(headers=b"x-padding: " + b"a" * HEAD_LIMIT + b"\r\n"),
        request(headers=b"".join(b"x-%d: a\r\n" % number for number in range(20_000))),
        request(line=b"GET /" + b"a" * HEAD_LIMIT + b" HTTP/1.1"),
    ],
)
def test_request_headers_over_the_limit_are_refused(exchange, head):
    pieces = [head[at : at + 4096] for at in range(0, len(head), 4096)]
    for wire in (exchange(head), exchange(*pieces)):
        assert wire.sent.startswith(b"HTTP/1.1 400 ")
        assert wire.closing


def test_an_endless_header_is_not_buffered(exchange):
    wire = exchange(b"GET / HTTP/1.1\r\nx-padding: ", *[b"a" * 4096] * (HEAD_LIMIT // 4096 + 1))
    assert wire.closing, "the line has not ended yet"


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\nx-a: ", request() + b"GET"])
def test_request_headers_that_take_too_long_end_the_connection(exchange, begun, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0)
    wire = exchange(begun)
    assert wire.closing
    assert b"took too long" in wire.sent


def test_a_body_may_arrive_slowly(exchange, monkeypatch):
    whole = request(b"hello")
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0)
    assert bodies(exchange(whole[:-2], whole[-2:])) == [b"POST|/mcp|a=b|-|hello"]
