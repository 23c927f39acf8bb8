"""gRPC's health check of a container (github.com/grpc/grpc, doc/health-checking.md), over a connection that is there.

Not by grpcio's client, which connects by itself: containers are reached by a `Dial`.
"""

import asyncio
import struct
from typing import Final

from google.protobuf.message import DecodeError
from google.protobuf.wrappers_pb2 import Int32Value, StringValue
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

METHOD: Final = "/grpc.health.v1.Health/Check"
SERVING: Final = 1
"""`HealthCheckResponse.ServingStatus.SERVING`."""

_LONGEST: Final = 1024
"""Bytes of an answer: the message is a number."""
_PREFIX: Final = struct.Struct(">BI")
"""Before each message of gRPC: whether it is compressed, and its length."""


async def serving(service: str, authority: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Whether the server says that *service*, or with an empty text the whole of it, serves.

    Args:
        service: As the server's health service knows it.
        authority: The container's address, as a client names it.
        reader: Of a new connection to it.
        writer: Of the same.
    """
    link = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    link.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", authority)]
    headers += [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "mcpfleet-probe")]
    stream = link.get_next_available_stream_id()
    link.send_headers(stream, headers)
    # HealthCheckRequest has one text in its first field, as StringValue has.
    message = StringValue(value=service).SerializeToString()
    link.send_data(stream, _PREFIX.pack(0, len(message)) + message, end_stream=True)
    answer = _Answer()
    try:
        writer.write(link.data_to_send())
        while not answer.ended and (data := await reader.read(65_536)):
            for event in link.receive_data(data):
                answer.add(event)
            writer.write(link.data_to_send())
    except (ProtocolError, UnicodeDecodeError):
        return False
    return answer.status() == SERVING


class _Answer:
    """What has come of an answer."""

    def __init__(self) -> None:
        self.ended = False
        self._good = True
        self._headers = dict[str, str]()
        self._body = b""

    def add(self, event: Event) -> None:
        match event:
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                self._headers.update({str(name): str(value) for name, value in headers or ()})
            case DataReceived(data=data):
                self._body += data or b""
                self._stop(good=len(self._body) <= _LONGEST)
            case StreamEnded():
                self.ended = True
            case StreamReset(error_code=code):
                # A server may reset a stream that it has answered, so that the rest of a request does not come.
                self._stop(good=code == ErrorCodes.NO_ERROR)
            case ConnectionTerminated():
                self._stop(good=False)
            case _:
                pass

    def status(self) -> int | None:
        """The status in the message; None where the call failed, or no whole message came."""
        if not (self.ended and self._good and self._headers.get("grpc-status") == "0"):
            return None
        if len(self._body) < _PREFIX.size:
            return None
        compressed, length = _PREFIX.unpack_from(self._body)
        message = self._body[_PREFIX.size :]
        if compressed or length != len(message):
            return None
        try:
            return Int32Value.FromString(message).value  # a number in the first field, as HealthCheckResponse has
        except DecodeError:
            return None

    def _stop(self, *, good: bool) -> None:
        self._good = self._good and good
        self.ended = self.ended or not good
