"""The few shapes that the hosting layer itself puts on the wire."""

from typing import Any, Final

import pydantic_core
from starlette.types import Scope, Send

Headers = dict[str, str]
"""Header lines by lower-case name; of doubles, which only `scope["headers"]` shows, the first."""

_JSON: Final = (b"content-type", b"application/json")


def headers_of(scope: Scope) -> Headers:
    """The headers of a request, without the white space round a value, which is no part of it (RFC 9110, 5.5)."""
    headers: Headers = {}
    for name, value in scope["headers"]:
        headers.setdefault(name.decode("latin-1"), value.decode("latin-1").strip(" \t"))
    return headers


def to_json(value: Any) -> bytes:
    """Write JSON; a number that JSON has no word for (NaN, infinity) becomes null.

    Raises:
        ValueError: The value holds what JSON cannot.
    """
    return pydantic_core.to_json(value, inf_nan_mode="null")


async def send_bytes(
    send: Send, status: int, payload: bytes, *headers: tuple[bytes, bytes], kind: tuple[bytes, bytes] = _JSON
) -> None:
    """Answer with a whole body at once."""
    length = (b"content-length", b"%d" % len(payload))
    await send({"type": "http.response.start", "status": status, "headers": [kind, length, *headers]})
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
    """Answer with a JSON-RPC error, because clients read the body of a 4xx to tell the protocol's eras apart."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    await send_bytes(send, status, to_json({"jsonrpc": "2.0", "id": request_id, "error": error}), *headers)
