"""Parses and normalizes the JSON-RPC messages of MCP for a relay.

It does not validate messages against the protocol's schema: that is up to the client and the server.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mcpfleet.bounds import parse_json, parse_json_object

Id = int | str | float

INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"
CANCELLED: Final = "notifications/cancelled"
LISTEN: Final = "subscriptions/listen"
ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
DISCOVER: Final = "server/discover"
CALL: Final = "tools/call"
LIST: Final = "tools/list"

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INTERNAL_ERROR: Final = -32603
CONNECTION_CLOSED: Final = -32000
"""The error code of the official SDKs for a connection that closed before the reply."""

VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_META: Final = "io.modelcontextprotocol/subscriptionId"

_HEADER_SAFE: Final = re.compile(r"[\x20-\x7e]*")
_BASE64: Final = re.compile(r"=\?base64\?.*\?=")


@dataclass(frozen=True)
class Message:
    """A message of a client.

    Attributes:
        raw: The line, without its end.
        method: The method; '' for a response to one of the server's requests.
        id: The request's or response's id; None for a notification.
        params: The parameters; empty if there are none.
        version: The protocol version in the message's `_meta` (since 2026-07-28); '' in older versions.
    """

    raw: bytes
    method: str
    id: Id | None
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: str = ""

    @property
    def is_request(self) -> bool:
        """Whether it expects a reply."""
        return bool(self.method) and self.id is not None

    @property
    def cancelled_id(self) -> Id | None:
        """The id of the request that it cancels."""
        return self.params.get("requestId") if self.method == CANCELLED else None


class NotAMessageError(ValueError):
    """A line is not one JSON-RPC message; the text has the reason.

    Attributes:
        code: The error code of JSON-RPC.
        id: The request's id, if it can be read.
    """

    def __init__(self, text: str, code: int, ident: Id | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.id = ident


def parse(line: bytes) -> Message:
    """Parse one line.

    Raises:
        NotAMessageError: It is not a JSON-RPC message.
    """
    try:
        value = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise NotAMessageError(f"not JSON: {error}", PARSE_ERROR) from None
    if not isinstance(value, dict):
        raise NotAMessageError(
            "expected one JSON object on each line; MCP has no batches since 2025-06-18", INVALID_REQUEST
        )
    body = cast("dict[str, Any]", value)
    method, ident, params = body.get("method", ""), body.get("id"), body.get("params")
    if not (ident is None or _is_id(ident)) or not isinstance(method, str):
        ident = ident if _is_id(ident) else None
        raise NotAMessageError("the method must be a string, and the id a string or a number", INVALID_REQUEST, ident)
    if not method and (ident is None or not ("result" in body or "error" in body)):
        raise NotAMessageError("not a request, a notification or a response", INVALID_REQUEST, ident)
    params = cast("dict[str, Any]", params) if isinstance(params, dict) else {}
    meta = params.get("_meta")
    version = cast("dict[str, Any]", meta).get(VERSION_META) if isinstance(meta, dict) else None
    # The line has no line breaks in JSON's white space: they would have ended it.
    return Message(line, method, ident, params, version if isinstance(version, str) else "")


def _is_id(ident: object) -> bool:
    return isinstance(ident, (int, str, float)) and not isinstance(ident, bool) and _is_finite(ident)


def _is_finite(ident: float | str) -> bool:
    return not isinstance(ident, float) or math.isfinite(ident)


def decode(body: bytes) -> dict[str, Any] | None:
    """Parse a message of a server; None if it is not a JSON object."""
    try:
        return parse_json_object(body)
    except ValueError:
        return None


def normalize_reply(reply: Mapping[str, Any], ident: Id) -> dict[str, Any] | None:
    """Convert a server's reply to valid JSON-RPC; None if the message is not a reply.

    Clients ignore invalid replies, and would wait forever. So the reply gets the request's id, loses `"error": null`
    and unknown members, and its error gets a number and a text.

    Args:
        reply: The server's message.
        ident: The request's id.
    """
    error, result = reply.get("error"), reply.get("result")
    if reply.get("method") is not None:
        return None
    if isinstance(error, dict):
        error_fields = cast("dict[str, Any]", error)
        code, message = error_fields.get("code"), error_fields.get("message")
        normalized: dict[str, Any] = {
            "code": code if type(code) is int else INTERNAL_ERROR,
            "message": message if isinstance(message, str) else "no reason given",
        }
        if "data" in error_fields:
            normalized["data"] = error_fields["data"]
        return {"jsonrpc": "2.0", "id": ident, "error": normalized}
    if error is None and isinstance(result, dict):
        return {"jsonrpc": "2.0", "id": ident, "result": cast("dict[str, Any]", result)}
    return None


def normalize_server_message(message: Mapping[str, Any]) -> dict[str, Any] | None:
    """Convert a server's own request or notification to valid JSON-RPC; None if the message is neither."""
    method, ident, params = message.get("method"), message.get("id"), message.get("params")
    if not isinstance(method, str) or not (ident is None or _is_id(ident)) or {"result", "error"} & message.keys():
        return None
    if not (params is None or isinstance(params, dict)):
        return None
    normalized: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if ident is not None:
        normalized["id"] = ident
    if params is not None:
        normalized["params"] = params
    return normalized


def client_line(body: bytes, message: Mapping[str, Any], normalized: Mapping[str, Any]) -> bytes:
    """The line for a client: the server's bytes unchanged if they are one valid line, or else the normalized message.

    Args:
        body: The bytes that the server sent.
        message: The parsed message.
        normalized: The normalized message.

    Raises:
        ValueError: A number in it is too large for Python.
    """
    # In Python 1, 1.0 and True are equal; for a client they are different ids.
    is_same = message == normalized and type(message.get("id")) is type(normalized.get("id"))
    # A message on several lines, or in another encoding than UTF-8, is encoded again.
    return body if is_same and is_single_line(body) and body.lstrip().startswith(b"{") else encode(normalized)


def encode(message: Mapping[str, Any]) -> bytes:
    """Encode a message as one line of JSON, without its end; in ASCII, because lone surrogates have no UTF-8.

    Raises:
        ValueError: A number in it is infinite, which JSON cannot express.
    """
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def is_single_line(line: bytes) -> bool:
    """Return whether bytes are one line of UTF-8, without its end, for every common line reader.

    Node's `readline` and Java's `Scanner` also end lines at U+2028 and U+2029, Python's `str.splitlines` at U+0085.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return False
    return text.splitlines() == [text]


def error_reply(ident: Id | None, text: str, code: int = CONNECTION_CLOSED, **data: Any) -> bytes:
    """An error reply to a request, as one line.

    Args:
        ident: The request's id.
        text: The message for people.
        code: The error code of JSON-RPC.
        data: Data for programs, under the key `mcpfleet`.
    """
    error: dict[str, Any] = {"code": code, "message": text}
    if data:
        error["data"] = {"mcpfleet": data}
    return encode({"jsonrpc": "2.0", "id": ident, "error": error})


def header_value(text: str) -> str:
    """Encode a text as a header's value: unchanged if possible, or else in MCP's Base64 form."""
    if _HEADER_SAFE.fullmatch(text) and text == text.strip() and not _BASE64.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode('ascii')}?="
