"""MCP's messages as a relay needs them: what a line is, and what it says.

Nothing here is validated against the protocol's schema: what the two sides say to each other is their matter.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mcpfleet.bounds import json_object, json_value

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
"""What the official SDKs say where an answer can not come any more."""

VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_META: Final = "io.modelcontextprotocol/subscriptionId"

_HEADER_SAFE: Final = re.compile(r"[\x20-\x7e]*")
_BASE64: Final = re.compile(r"=\?base64\?.*\?=")


@dataclass(frozen=True)
class Message:
    """One message of a client.

    Attributes:
        raw: The line, without its end.
        method: The method; '' for a response to one of the server's requests.
        id: The request's or response's id; None for a notification.
        params: The parameters; empty where there are none.
        version: The protocol revision that the message names for itself (since 2026-07-28); '' before.
    """

    raw: bytes
    method: str
    id: Id | None
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    version: str = ""

    @property
    def is_request(self) -> bool:
        """Whether it wants an answer."""
        return bool(self.method) and self.id is not None

    @property
    def cancels(self) -> Id | None:
        """The request that it cancels."""
        return self.params.get("requestId") if self.method == CANCELLED else None


class NotAMessageError(ValueError):
    """A line that is not one JSON-RPC message; the text says why.

    Attributes:
        code: JSON-RPC's.
        id: The request's id, where there is one that can be read.
    """

    def __init__(self, text: str, code: int, ident: Id | None = None) -> None:
        super().__init__(text)
        self.code = code
        self.id = ident


def parse(line: bytes) -> Message:
    """Read one line.

    Raises:
        NotAMessageError: It is not a JSON-RPC message.
    """
    try:
        found = json_value(line)
    except (ValueError, RecursionError) as error:
        raise NotAMessageError(f"not JSON: {error}", PARSE_ERROR) from None
    if not isinstance(found, dict):
        raise NotAMessageError("one JSON object on each line, please; batches ended with 2025-06-18", INVALID_REQUEST)
    body = cast("dict[str, Any]", found)
    method, ident, params = body.get("method", ""), body.get("id"), body.get("params")
    if not (ident is None or _is_id(ident)) or not isinstance(method, str):
        ident = ident if _is_id(ident) else None
        raise NotAMessageError("a method is a string, and an id a string or a number", INVALID_REQUEST, ident)
    if not method and (ident is None or not ("result" in body or "error" in body)):
        raise NotAMessageError("neither a request nor a notification nor a response", INVALID_REQUEST, ident)
    params = cast("dict[str, Any]", params) if isinstance(params, dict) else {}
    meta = params.get("_meta")
    version = cast("dict[str, Any]", meta).get(VERSION_META) if isinstance(meta, dict) else None
    # A line with a line break of JSON's white space inside cannot come: the break ended it.
    return Message(line, method, ident, params, version if isinstance(version, str) else "")


def _is_id(ident: object) -> bool:
    return isinstance(ident, (int, str, float)) and not isinstance(ident, bool) and _is_finite(ident)


def _is_finite(ident: float | str) -> bool:
    return not isinstance(ident, float) or math.isfinite(ident)


def decode(body: bytes) -> dict[str, Any] | None:
    """A message of a server; None where it is no JSON object."""
    try:
        return json_object(body)
    except ValueError:
        return None


def answer(found: Mapping[str, Any], ident: Id) -> dict[str, Any] | None:
    """A server's answer to a request, in JSON-RPC's own form; None where it is no answer.

    Clients drop what is not of that form, and would wait for ever: so the id is the request's, `"error": null` beside a
    result is gone, as are members that the protocol does not know, and an error has a number and a text.

    Args:
        found: What the server said.
        ident: The request's id.
    """
    error, result = found.get("error"), found.get("result")
    if found.get("method") is not None:
        return None
    if isinstance(error, dict):
        said = cast("dict[str, Any]", error)
        code, message = said.get("code"), said.get("message")
        formed: dict[str, Any] = {
            "code": code if type(code) is int else INTERNAL_ERROR,
            "message": message if isinstance(message, str) else "no reason given",
        }
        if "data" in said:
            formed["data"] = said["data"]
        return {"jsonrpc": "2.0", "id": ident, "error": formed}
    if error is None and isinstance(result, dict):
        return {"jsonrpc": "2.0", "id": ident, "result": cast("dict[str, Any]", result)}
    return None


def speech(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """A server's own request or notification, in JSON-RPC's own form; None where it is neither."""
    method, ident, params = found.get("method"), found.get("id"), found.get("params")
    if not isinstance(method, str) or not (ident is None or _is_id(ident)) or {"result", "error"} & found.keys():
        return None
    if not (params is None or isinstance(params, dict)):
        return None
    formed: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
    if ident is not None:
        formed["id"] = ident
    if params is not None:
        formed["params"] = params
    return formed


def line_of(body: bytes, found: Mapping[str, Any], formed: Mapping[str, Any]) -> bytes:
    """One line for a client: what came, byte for byte, if it is that already, and else what is meant by it.

    Args:
        body: What the server sent.
        found: The same, read.
        formed: What is meant.

    Raises:
        ValueError: A number in it is larger than Python knows.
    """
    # In Python 1, 1.0 and True are equal, to a client they are not the same id.
    same = found == formed and type(found.get("id")) is type(formed.get("id"))
    # What a server prints over several lines, or in another encoding than UTF-8, is written anew.
    return body if same and is_line(body) and body.lstrip().startswith(b"{") else encode(formed)


def encode(message: Mapping[str, Any]) -> bytes:
    """One line of JSON, without its end; in ASCII, for halves of surrogate pairs have no UTF-8.

    Raises:
        ValueError: A number in it is infinite, which JSON has no word for.
    """
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode()


def is_line(line: bytes) -> bool:
    """Whether bytes are one line of UTF-8 without its end, whoever splits it.

    Node's `readline` and Java's `Scanner` end lines at U+2028 and U+2029, Python's `str.splitlines` at U+0085, too.
    """
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return False
    return text.splitlines() == [text]


def error_reply(ident: Id | None, text: str, code: int = CONNECTION_CLOSED, **data: Any) -> bytes:
    """An answer that says why there is none.

    Args:
        ident: The request's id.
        text: For a person to read.
        code: JSON-RPC's.
        data: What a program reads, under the key `mcpfleet`.
    """
    error: dict[str, Any] = {"code": code, "message": text}
    if data:
        error["data"] = {"mcpfleet": data}
    return encode({"jsonrpc": "2.0", "id": ident, "error": error})


def header_value(text: str) -> str:
    """A text as a header can carry it: as it is, or in MCP's Base64 form."""
    if _HEADER_SAFE.fullmatch(text) and text == text.strip() and not _BASE64.fullmatch(text):
        return text
    return f"=?base64?{base64.b64encode(text.encode('utf-8', 'surrogatepass')).decode('ascii')}?="
