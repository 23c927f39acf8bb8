"""The headers of the revision 2026-07-28, which repeat what the body says, and must say the same.

A gateway routes by them, so a request whose headers and body differ would be one thing to the gateway and
another to the server (specification 2026-07-28, streamable HTTP, "Standard headers").
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mcpfleet_bridge import messages
from mcpfleet_bridge.messages import Json, Message, MessageError

ROUTING: Final = frozenset({b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-session-id", b"host", b"origin"})
"""Headers of which there may be one: two readers might take different ones for the truth."""

_META: Final = "io.modelcontextprotocol/"
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_ENCODED: Final = re.compile(r"=\?base64\?(.*)\?=")


class Refused(Exception):  # noqa: N818  # an answer
    """The request may not pass.

    Attributes:
        code: JSON-RPC's code.
        data: What the error holds besides.
    """

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose headers agree with its body.

    Attributes:
        method: What is asked for.
        name: What it is asked of, where the method has such: the tool, the prompt, the resource's URI.
        members: The members of the parameters.
        meta: The members of their `_meta`.
    """

    method: str
    name: str | None
    members: Json
    meta: Json


def check(headers: Mapping[bytes, bytes], message: Message, versions: Sequence[str]) -> Request:
    """Compare headers and body.

    Raises:
        Refused: They differ, something required is missing, or the revision is not served.
    """
    try:
        members = messages.fields(message.params)
        meta = messages.fields(members.get("_meta", b"null"))
    except MessageError:
        raise Refused(messages.INVALID_PARAMS, "params._meta must be an object with the request's envelope") from None
    keys = (f"{_META}protocolVersion", f"{_META}clientCapabilities")
    if missing := [key for key in keys if key not in meta]:
        raise Refused(messages.INVALID_PARAMS, f"params._meta is missing {' and '.join(missing)}")
    said = messages.text(meta[keys[0]])
    version = _header(headers, b"mcp-protocol-version")
    method = str(message.method)
    if version != said:
        raise Refused(messages.HEADER_MISMATCH, "MCP-Protocol-Version is not what params._meta says")
    if _header(headers, b"mcp-method") != method:
        raise Refused(messages.HEADER_MISMATCH, "Mcp-Method is not the method of the body")
    name = None
    if (key := _NAMED.get(method)) and key in members:
        name = messages.text(members[key])
        if decoded(_header(headers, b"mcp-name")) != name or name is None:
            raise Refused(messages.HEADER_MISMATCH, f"Mcp-Name is not params.{key} of the body")
    if version not in versions:
        data = {"supported": list(versions), "requested": version}
        raise Refused(messages.UNSUPPORTED_VERSION, "Unsupported protocol version", data)
    try:
        messages.fields(meta[keys[1]])
    except MessageError:
        raise Refused(messages.INVALID_PARAMS, f"params._meta: {keys[1]} must be an object") from None
    return Request(method, name, members, meta)


def _header(headers: Mapping[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    # Blanks round a value are no part of it (RFC 9110, 5.5), and the HTTP parser leaves those at its end.
    return None if value is None else value.decode("latin-1").strip(" \t")


def decoded(value: str | None) -> str | None:
    """A header's value, its Base64 form undone; None if that form is broken."""
    if value is None or (match := _ENCODED.fullmatch(value)) is None:
        return value
    try:
        raw = base64.b64decode(match[1], validate=True)
        # Bits that the decoder ignores would make two values of one.
        return raw.decode() if base64.b64encode(raw).decode() == match[1] else None
    except (binascii.Error, UnicodeDecodeError):
        return None
