"""Tests of gRPC health probes against a server in memory."""

import asyncio
import struct

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from hypothesis import given
from hypothesis import strategies as st

from mcpfleet_local_cloud.data_plane import grpc_health

SERVES = b"\x08\x01"
OK = [("grpc-status", "0")]


class Server:
    """The server's end of a connection: it answers one call and records the request."""

    def __init__(self, message=SERVES, *, trailers=OK, prefix=None, raw=None):
        self.link = H2Connection(H2Configuration(client_side=False, header_encoding="utf-8"))
        self.link.initiate_connection()
        self.prefix = struct.pack(">BI", 0, len(message)) if prefix is None else prefix
        self.message, self.trailers, self.raw = message, trailers, raw
        self.reader = asyncio.StreamReader()
        if raw is not None:
            self.reader.feed_data(raw)
            self.reader.feed_eof()
        self.asked = {}
        self.body = b""

    def write(self, data):
        if self.raw is not None:
            return
        for event in self.link.receive_data(data):
            match event:
                case RequestReceived():
                    self.asked = dict(event.headers)
                case DataReceived():
                    self.body += event.data
                case StreamEnded():
                    self.answer(event.stream_id)
                case _:
                    pass
        self.reader.feed_data(self.link.data_to_send())

    def answer(self, stream):
        self.link.send_headers(stream, [(":status", "200"), ("content-type", "application/grpc")])
        self.link.send_data(stream, self.prefix + self.message)
        self.link.send_headers(stream, self.trailers, end_stream=True)


def ask(server, service=""):
    async def run():
        server = make()
        return server, await grpc_health.is_serving(service, "10.0.0.9:50051", server.reader, server)

    make = server
    return asyncio.run(run())


def test_a_serving_server_is_healthy_and_gets_the_service_name():
    server, healthy = ask(Server, "acme.v1.Weather")
    assert healthy
    assert (server.asked[":method"], server.asked[":path"]) == ("POST", "/grpc.health.v1.Health/Check")
    assert server.asked["te"] == "trailers"
    assert server.body == b"\x00\x00\x00\x00\x11\x0a\x0facme.v1.Weather"


@pytest.mark.parametrize(
    "keys",
    [
        {"message": b"\x08\x02"},
        {"message": b""},
        {"trailers": [("grpc-status", "5")]},
        {"prefix": b"\x01\x00\x00\x00\x02"},
        {"prefix": b"\x00\x00\x00\x00\x09"},
        {"message": b"\x00" * 2000},
        {"message": b"\xff\xff"},
    ],
    ids=["not serving", "unknown", "no such service", "compressed", "cut off", "too long", "no message"],
)
def test_any_other_status_is_not_healthy(keys):
    assert not ask(lambda: Server(**keys))[1]


@given(st.one_of(st.binary(max_size=300), st.binary(max_size=200).map(lambda rest: b"\0\0\0\4\0\0\0\0\0" + rest)))
def test_any_invalid_response_is_not_healthy(data):
    assert not ask(lambda: Server(raw=data))[1]
