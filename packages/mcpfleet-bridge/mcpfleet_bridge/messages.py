"""JSON-RPC messages: the bridge reads the envelope, and passes on parameters and results as the bytes it received.

So numbers keep their digits, objects keep their order, and a large result costs no more than copying it. Only line
ends are replaced when a message is first read, so that each part of it can be written into one line or event.
"""

import json
import re
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpfleet_bridge.lines import to_one_line

Json = dict[str, Raw]
"""An object whose values are not decoded."""

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
SERVER_BUSY: Final = -32000
TIMED_OUT: Final = -32001
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022

# An integer of at most 20 digits, or a string.
_ID_PATTERN: Final = re.compile(rb'-?[0-9]{1,20}|".*"')
_MAX_ID_BYTES: Final = 1024


HTTP_STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""The HTTP status for a JSON-RPC error in protocol version 2026-07-28; other errors have 200."""


class RefusedError(Exception):
    """A request is refused. Raised where the reason is found; `edge.py` sends the error.

    Attributes:
        code: The JSON-RPC error code.
        data: The data of the JSON-RPC error, if any.
        status: The HTTP status.
    """

    def __init__(self, code: int, message: str, data: Any = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data
        self.status = HTTP_STATUS.get(code, 400) if status is None else status


class UnavailableError(RefusedError):
    """The bridge has no capacity for the request at present; the response is 503."""

    def __init__(self, message: str) -> None:
        super().__init__(SERVER_BUSY, message, status=503)


class MessageError(RefusedError):
    """The text is not a JSON-RPC message that can be passed on."""


class Message(msgspec.Struct, gc=False):
    """One JSON-RPC message: a request, a notification, or a response."""

    jsonrpc: Literal["2.0"]
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_decoder: Final = msgspec.json.Decoder(Message)
_object: Final = msgspec.json.Decoder(Json)
_encoder: Final = msgspec.json.Encoder()


def parse(body: bytes) -> Message:
    """Parse one message. Line ends between its tokens are replaced by spaces.

    Raises:
        MessageError: The text is not a message; the error says why.
    """
    try:
        # The decoder checks the grammar inside Raw, but not whether it is UTF-8.
        if not body.isascii():
            body.decode()
        message = _decoder.decode(body)
        if (single_line := to_one_line(body)) != body:  # only now: a line end inside a text is no JSON, and was refused
            message = _decoder.decode(single_line)
    except RecursionError:
        raise MessageError(PARSE_ERROR, "the message is nested too deeply") from None
    except msgspec.ValidationError as mistake:
        if body.lstrip()[:1] == b"[":
            raise MessageError(INVALID_REQUEST, "batches are not served: send one message in each request") from None
        raise MessageError(INVALID_REQUEST, f"not a JSON-RPC 2.0 message: {mistake}") from None
    except UnicodeDecodeError:
        raise MessageError(PARSE_ERROR, "the message is not UTF-8") from None
    except msgspec.DecodeError as mistake:
        raise MessageError(PARSE_ERROR, f"the message is not JSON: {mistake}") from None
    if message.method is UNSET and message.result is UNSET and message.error is UNSET:
        raise MessageError(INVALID_REQUEST, "not a JSON-RPC 2.0 message: it has no method, no result and no error")
    return message


def parse_leniently(line: bytes) -> Message:
    """Parse one message of the server, which may contain lone surrogates.

    JavaScript writes them as escapes, which not every parser accepts. They are replaced, so that no result is lost.

    Raises:
        MessageError: The text is not a message.
    """
    try:
        return parse(line)
    except MessageError as first:
        if first.code != PARSE_ERROR:
            raise
        try:
            value = json.loads(line, parse_constant=_reject_constant)
            return parse(json.dumps(_replace_surrogates(value)).encode())
        except (ValueError, RecursionError):
            raise first from None


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _replace_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_replace_surrogates(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {
            _replace_surrogates(key): _replace_surrogates(item) for key, item in cast("dict[Any, Any]", value).items()
        }
    return value


def request_id(message: Message) -> bytes | None:
    """Return the bytes of a request's ID, for use in the response; None for a notification.

    Raises:
        MessageError: The ID is neither a string nor an integer; MCP forbids others, including null.
    """
    if message.id is UNSET:
        return None
    raw = bytes(message.id)
    if len(raw) > _MAX_ID_BYTES or _ID_PATTERN.fullmatch(raw) is None:
        raise MessageError(INVALID_REQUEST, "the id of a request must be a string or an integer")
    return raw


def fields(raw: Raw | UnsetType | bytes) -> Json:
    """Return the members of an object, each as its bytes.

    Raises:
        MessageError: The value is not an object.
    """
    if raw is UNSET:
        return {}
    try:
        return _object.decode(cast("bytes", raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MessageError(INVALID_PARAMS, "not an object") from None


def raw_bytes(member: Raw | UnsetType) -> bytes:
    """Return the bytes of a member, which must be present."""
    return bytes(cast("bytes", member))


def text(raw: Raw | UnsetType | bytes | None) -> str | None:
    """Return the value of a string, or None for any other value."""
    if raw is None or raw is UNSET:
        return None
    try:
        return msgspec.json.decode(cast("bytes", raw), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def dump(value: Any) -> bytes:
    """Encode a value as JSON on one line; `Raw` parts stay unchanged."""
    return to_one_line(_encoder.encode(value))


_encoded_methods: dict[str, bytes] = {}


def encode_method(method: str) -> bytes:
    """Encode a method's name as JSON. The cache is bounded, because clients can make up names."""
    encoded = _encoded_methods.get(method)
    if encoded is None:
        encoded = dump(method)
        if len(_encoded_methods) < 100:  # MCP has about thirty methods
            _encoded_methods[method] = encoded
    return encoded


def request(number: int, method: str, params: bytes | None) -> bytes:
    """Return a request for the server as a line, with the bridge's own ID."""
    if params is None:
        return b'{"jsonrpc":"2.0","id":%d,"method":%s}\n' % (number, encode_method(method))
    return b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s}\n' % (number, encode_method(method), params)


def notification(method: str, params: bytes | None = None) -> bytes:
    """Return a notification, without a line end."""
    if params is None:
        return b'{"jsonrpc":"2.0","method":%s}' % encode_method(method)
    return b'{"jsonrpc":"2.0","method":%s,"params":%s}' % (encode_method(method), params)


def result(request_id: bytes, value: bytes) -> bytes:
    """Return a response with a result."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (request_id, value)


def failure(request_id: bytes, error: bytes) -> bytes:
    """Return a response with an error object, which stays unchanged."""
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (request_id, error)


def error(code: int, message: str, data: Any = None) -> bytes:
    """Return an error object."""
    value: dict[str, Any] = {"code": code, "message": message.encode("utf-8", "replace").decode()}
    if data is not None:
        value["data"] = data
    return dump(value)
