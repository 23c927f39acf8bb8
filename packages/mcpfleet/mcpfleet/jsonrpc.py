"""MCP's messages as a relay needs them: what a line is, and what it says.

Nothing here is validated against the protocol's schema: what the two sides say to each other is their matter.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

from mcpfleet.bounds import json_object

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
    """A line that is not one JSON-RPC message; the text says why."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


def parse(line: bytes) -> Message:
    """Read one line.

    Raises:
        NotAMessageError: It is not a JSON-RPC message.
    """
    try:
        found: object = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NotAMessageError(f"not JSON: {error}", PARSE_ERROR) from None
    if not isinstance(found, dict):
        raise NotAMessageError("one JSON object on each line, please; batches ended with 2025-06-18", INVALID_REQUEST)
    body = cast("dict[str, Any]", found)
    method, ident, params = body.get("method", ""), body.get("id"), body.get("params")
    if not isinstance(method, str) or not (ident is None or isinstance(ident, (int, str, float))):
        raise NotAMessageError("a method is a string, and an id a string or a number", INVALID_REQUEST)
    if not method and (ident is None or not ("result" in body or "error" in body)):
        raise NotAMessageError("neither a request nor a notification nor a response", INVALID_REQUEST)
    params = cast("dict[str, Any]", params) if isinstance(params, dict) else {}
    meta = params.get("_meta")
    version = cast("dict[str, Any]", meta).get(VERSION_META) if isinstance(meta, dict) else None
    # A line with a line break of JSON's white space inside cannot come: the break ended it.
    return Message(line, method, ident, params, version if isinstance(version, str) else "")


def decode(body: bytes) -> dict[str, Any] | None:
    """A message of a server; None where it is no JSON object."""
    try:
        return json_object(body)
    except ValueError:
        return None


def encode(message: Mapping[str, Any]) -> bytes:
    """One line of JSON, without its end; in ASCII, for halves of surrogate pairs have no UTF-8."""
    return json.dumps(message, separators=(",", ":")).encode()


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
