"""JSON-RPC as it passes through: the envelope is read, parameters and results stay the bytes they came as.

So a number keeps its digits, an object its order, and a large answer costs what copying costs. Only what ends a line
goes, with the first reading: whatever is taken from a message, or made here, can stand in a line and in an event.
"""

import json
import re
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import UNSET, Raw, UnsetType

from mcpfleet_bridge.lines import one_line

Json = dict[str, Raw]
"""An object whose values nobody has looked into."""

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

# A whole number as JSON writes it, or a text; the longest that a client may give.
_ID: Final = re.compile(rb'-?[0-9]{1,20}|".*"')
_MAX_ID: Final = 1024


STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}
"""The HTTP status that goes with a JSON-RPC error in the revision 2026-07-28; others go with 200."""


class Refused(Exception):  # noqa: N818  # an answer
    """A request gets an error, and nothing is done: raised where that is known, answered at the edge.

    Attributes:
        code: JSON-RPC's code.
        data: What the error holds besides.
        status: HTTP's status.
    """

    def __init__(self, code: int, message: str, data: Any = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data
        self.status = STATUS.get(code, 400) if status is None else status


class Unavailable(Refused):
    """Nothing is free for the request at present."""

    def __init__(self, message: str) -> None:
        super().__init__(SERVER_BUSY, message, status=503)


class MessageError(Refused):
    """What came is no JSON-RPC message that can be passed on."""


class Message(msgspec.Struct, gc=False):
    """One JSON-RPC message: a request, a notification, or an answer."""

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
    """Read one message. Its members are parts of one line, however it was printed.

    Raises:
        MessageError: It is not one; the text says what it is instead.
    """
    try:
        # The decoder holds what is inside Raw to JSON's grammar, but not to UTF-8.
        if not body.isascii():
            body.decode()
        message = _decoder.decode(body)
        if (line := one_line(body)) != body:  # only now: a line end inside a text is no JSON, and was refused
            message = _decoder.decode(line)
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
    """Read one message of the server, which may hold what only most parsers accept: halves of surrogate pairs.

    JavaScript writes those as escapes; another parser's user is not to lose an answer by it.

    Raises:
        MessageError: It is not a message.
    """
    try:
        return parse(line)
    except MessageError as first:
        if first.code != PARSE_ERROR:
            raise
        try:
            value = json.loads(line, parse_constant=_no_constant)
            return parse(json.dumps(_without_halves(value)).encode())
        except (ValueError, RecursionError):
            raise first from None


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_halves(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(item) for key, item in cast("dict[Any, Any]", value).items()}
    return value


def request_id(message: Message) -> bytes | None:
    """The id of a request as its bytes, to be given back as it came; None for a notification.

    Raises:
        MessageError: The id is neither a text nor a whole number (MCP allows no other, null included).
    """
    if message.id is UNSET:
        return None
    raw = bytes(message.id)
    if len(raw) > _MAX_ID or _ID.fullmatch(raw) is None:
        raise MessageError(INVALID_REQUEST, "a request's id is a text or a whole number")
    return raw


def fields(raw: Raw | UnsetType | bytes) -> Json:
    """The members of an object, each as its bytes.

    Raises:
        MessageError: It is no object.
    """
    if raw is UNSET:
        return {}
    try:
        return _object.decode(cast("bytes", raw))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise MessageError(INVALID_PARAMS, "not an object") from None


def raw(part: Raw | UnsetType) -> bytes:
    """The bytes of a member that is there."""
    return bytes(cast("bytes", part))


def text(raw: Raw | UnsetType | bytes | None) -> str | None:
    """A text's value, or None if it is something else."""
    if raw is None or raw is UNSET:
        return None
    try:
        return msgspec.json.decode(cast("bytes", raw), type=str)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def dump(value: Any) -> bytes:
    """A value as JSON on one line; `Raw` in it goes out as it came in."""
    return one_line(_encoder.encode(value))


_known: dict[str, bytes] = {}


def quoted(method: str) -> bytes:
    """A method's name as JSON. The few that occur are kept, however many a client may make up."""
    known = _known.get(method)
    if known is None:
        known = dump(method)
        if len(_known) < 100:  # MCP has some thirty
            _known[method] = known
    return known


def request(number: int, method: str, params: bytes | None) -> bytes:
    """A request for the server, under the bridge's own id."""
    if params is None:
        return b'{"jsonrpc":"2.0","id":%d,"method":%s}\n' % (number, quoted(method))
    return b'{"jsonrpc":"2.0","id":%d,"method":%s,"params":%s}\n' % (number, quoted(method), params)


def notification(method: str, params: bytes | None = None) -> bytes:
    """A notification, without the line's end."""
    if params is None:
        return b'{"jsonrpc":"2.0","method":%s}' % quoted(method)
    return b'{"jsonrpc":"2.0","method":%s,"params":%s}' % (quoted(method), params)


def result(identity: bytes, value: bytes) -> bytes:
    """An answer that succeeded."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (identity, value)


def failure(identity: bytes, error: bytes) -> bytes:
    """An answer that failed, with the error object as it came."""
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (identity, error)


def error(code: int, message: str, data: Any = None) -> bytes:
    """An error object of the bridge's own."""
    value: dict[str, Any] = {"code": code, "message": message.encode("utf-8", "replace").decode()}
    if data is not None:
        value["data"] = data
    return dump(value)
