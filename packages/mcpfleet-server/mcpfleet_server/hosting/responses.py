"""Request headers, and the HTTP responses that the hosting layer itself sends."""

from typing import Any, Final

import pydantic_core
from starlette.types import Scope, Send

Headers = dict[str, str]
"""Headers by lower-case name. Of duplicates only the first; `scope["headers"]` has all of them."""

_JSON: Final = (b"content-type", b"application/json")


def headers_of(scope: Scope) -> Headers:
    """Return the headers of a request, without white space around their values (RFC 9110, 5.5)."""
    headers: Headers = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1").strip(" \t"))
    return headers


def to_json(value: Any) -> bytes:
    """Encode a value as JSON; numbers that JSON can't express (NaN, infinity) become null.

    Raises:
        ValueError: The value can't be expressed as JSON.
    """
    return pydantic_core.to_json(value, inf_nan_mode="null")


async def send_bytes(
    send: Send, status: int, payload: bytes, *headers: tuple[bytes, bytes], content_type: tuple[bytes, bytes] = _JSON
) -> None:
    """Send a complete response."""
    length = (b"content-length", b"%d" % len(payload))
    await send({"type": "http.response.start", "status": status, "headers": [content_type, length, *headers]})
    await send({"type": "http.response.body", "body": payload})


async def refuse(
    send: Send,
    status: int,
    code: int,
    message: str,
    request_id: str | int | None = None,
    data: Any = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
) -> None:
    """Send a JSON-RPC error. Clients read the body of a 4xx to find out which protocol version the server speaks."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    await send_bytes(send, status, to_json({"jsonrpc": "2.0", "id": request_id, "error": error}), *headers)
