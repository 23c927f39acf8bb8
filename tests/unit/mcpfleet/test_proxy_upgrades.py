"""The server of the proxy with the requests of Java's HTTP client, without a socket."""

import asyncio

import pytest
from uvicorn.server import ServerState

from mcpfleet.cli import server_config

# Java adds this to each request to an `http:` address.
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAA\r\n"


class Wire(asyncio.Transport):
    """Keeps what was sent."""

    def __init__(self):
        super().__init__()
        self.sent = b""

    def write(self, data):
        self.sent += bytes(data)

    def close(self):
        pass

    def is_closing(self):
        return False

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


async def echo(scope, receive, send):
    """Answer with the body."""
    body, fields = b"", True
    while fields:
        message = await receive()
        body, fields = body + message["body"], message["more_body"]
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize("headers", [b"", H2C])
def test_requests_keep_their_bodies_with_any_upgrade_header(headers):
    async def scenario():
        config = server_config(echo)
        config.load()
        wire = Wire()
        protocol = config.http_protocol_class(config, ServerState(), {}, asyncio.get_running_loop())
        protocol.connection_made(wire)
        for body in (b"one", b"two"):
            protocol.data_received(b"POST /mcp HTTP/1.1\r\nhost: a\r\n" + headers + b"content-length: 3\r\n\r\n" + body)
            for _ in range(20):
                await asyncio.sleep(0)
        protocol.connection_lost(None)
        return wire.sent

    answers = asyncio.run(scenario()).split(b"HTTP/1.1 200 ")[1:]
    assert [answer.partition(b"\r\n\r\n")[2] for answer in answers] == [b"one", b"two"]
