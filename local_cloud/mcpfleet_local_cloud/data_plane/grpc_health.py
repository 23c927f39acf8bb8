"""gRPC's health check of a container (github.com/grpc/grpc, doc/health-checking.md), over an existing connection.

It does not use grpcio's client, which opens its own connections: containers are reached by a `Dial`.
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
"""The largest response in bytes: the message is a number."""
_PREFIX: Final = struct.Struct(">BI")
"""The prefix of each gRPC message: whether it is compressed, and its length."""


async def is_serving(service: str, authority: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Return whether the server reports that *service* serves.

    Args:
        service: The name of a service; empty for the whole server.
        authority: The container's address, for the header `:authority`.
        reader: The reader of a new connection to the container.
        writer: The writer of the same connection.
    """
    connection = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    connection.initiate_connection()
    headers = [(":method", "POST"), (":scheme", "http"), (":path", METHOD), (":authority", authority)]
    headers += [("content-type", "application/grpc"), ("te", "trailers"), ("user-agent", "mcpfleet-probe")]
    stream = connection.get_next_available_stream_id()
    connection.send_headers(stream, headers)
    # HealthCheckRequest has one string in its first field, as StringValue has.
    message = StringValue(value=service).SerializeToString()
    connection.send_data(stream, _PREFIX.pack(0, len(message)) + message, end_stream=True)
    response = _Response()
    try:
        writer.write(connection.data_to_send())
        while not response.has_ended and (data := await reader.read(65_536)):
            for event in connection.receive_data(data):
                response.add(event)
            writer.write(connection.data_to_send())
    except (ProtocolError, UnicodeDecodeError):
        return False
    return response.status() == SERVING


class _Response:
    """Collects the response of one call."""

    def __init__(self) -> None:
        self.has_ended = False
        self._is_valid = True
        self._headers = dict[str, str]()
        self._body = b""

    def add(self, event: Event) -> None:
        match event:
            case ResponseReceived(headers=headers) | TrailersReceived(headers=headers):
                self._headers.update({str(name): str(value) for name, value in headers or ()})
            case DataReceived(data=data):
                self._body += data or b""
                self._stop(is_valid=len(self._body) <= _LONGEST)
            case StreamEnded():
                self.has_ended = True
            case StreamReset(error_code=code):
                # A server may reset a stream after its response, so that it does not get the rest of the request.
                self._stop(is_valid=code == ErrorCodes.NO_ERROR)
            case ConnectionTerminated():
                self._stop(is_valid=False)
            case _:
                pass

    def status(self) -> int | None:
        """The status in the message; None if the call failed, or the message is incomplete."""
        if not (self.has_ended and self._is_valid and self._headers.get("grpc-status") == "0"):
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

    def _stop(self, *, is_valid: bool) -> None:
        self._is_valid = self._is_valid and is_valid
        self.has_ended = self.has_ended or not is_valid
