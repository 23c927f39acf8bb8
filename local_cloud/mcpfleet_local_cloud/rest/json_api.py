"""JSON conventions of Google's APIs: strict parsing, timestamps, pages, and partial responses."""

import base64
import binascii
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal, Never, cast

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.state.store import Document

# More digits than any parameter needs, and fewer than Python refuses to convert.
_MAX_DIGITS: Final = 18
_MAX_DEPTH: Final = 100


KeyFunction = Callable[[Document], str]
"""Returns the key that identifies a document within its list."""


def _name_of(document: Document) -> str:
    return document["name"]


def format_timestamp(
    seconds: float, precision: Literal["seconds", "milliseconds", "microseconds"] = "microseconds"
) -> str:
    """Format *seconds* since the epoch in RFC 3339, as Google's documents have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def parse_json(content: bytes) -> Any:
    """Parse *content* as JSON.

    Raises:
        GoogleError: INVALID_ARGUMENT in Google's words, with the position of the mistake.
    """
    try:
        return parse_strict_json(content)
    except (ValueError, RecursionError) as refusal:
        raise invalid(f"Invalid JSON payload received. Unexpected token.\n{refusal}") from refusal


def parse_strict_json(content: bytes) -> Any:
    """Parse *content* as JSON that can be stored and sent again.

    Python accepts more than JSON allows: `NaN`, numbers beyond a double's range, and halves of a surrogate pair. UTF-8
    cannot encode the latter, so that a resource with one in its description could never be returned.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deeply.
    """
    value = json.loads(
        content, parse_constant=_reject_constant, parse_float=_parse_float, object_pairs_hook=_build_object
    )
    if b"\\u" in content:
        json.dumps(value, ensure_ascii=False).encode()
    return value


class ObjectWithDuplicates(dict[str, Any]):
    """A JSON object in which some names occur more than once: `duplicates`."""

    duplicates: tuple[str, ...] = ()


def as_object(value: Any) -> Document | None:
    """*value* if it is a JSON object, else None."""
    return cast("Document", value) if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """*value* if it is a JSON array, else None."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def parse_number(text: str) -> int | None:
    """Parse a parameter's *text* as a whole number; None if it is none, or longer than any sensible number."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None


def require_field(fields: Mapping[str, Any], name: str, path: str = "") -> str:
    """Return the string *name* among *fields* of the message at *path*.

    Raises:
        GoogleError: INVALID_ARGUMENT: the field is missing or empty.
    """
    if not fields.get(name):
        raise invalid(f"{f'{path}.{name}' if path else name} is required.")
    return str(fields[name])


def list_page(
    request: Request, field: str, items: Sequence[Document], *, default: int, maximum: int, key: KeyFunction = _name_of
) -> Document:
    """Return the response of a list method: one page of *items* in *field*, and the token of the next page.

    Raises:
        GoogleError: INVALID_ARGUMENT: the page size or the page token is invalid.
    """
    documents, next_token = paginate(request, items, default=default, maximum=maximum, key=key)
    return {**({field: documents} if documents else {}), **({"nextPageToken": next_token} if next_token else {})}


def paginate(
    request: Request, items: Sequence[Document], *, default: int, maximum: int, key: KeyFunction = _name_of
) -> tuple[list[Document], str]:
    """Return the page of *items* that the query asks for, and the token of the next page.

    The query parameters are `pageSize` (or `maxResults`) and `pageToken`. A token names the first item of the next
    page, so that a caller who deletes the items of a page misses none of the next.

    Args:
        request: the request with the query parameters.
        items: the whole list, in a stable order.
        default: the number of items on a page if the query has no size.
        maximum: the largest number of items on a page.
        key: identifies an item.

    Raises:
        GoogleError: INVALID_ARGUMENT: the page size or the page token is invalid.
    """
    parameters = request.query_params
    name, reported_name = ("maxResults", "maxResults") if "maxResults" in parameters else ("pageSize", "page_size")
    size = parse_number(parameters.get(name) or "0")
    if size is None:
        raise invalid(f"Invalid value at '{reported_name}' (TYPE_INT32), {json.dumps(parameters[name])}")
    start = _find_page_start(parameters.get("pageToken", ""), [key(item) for item in items])
    end = start + min(size or default, maximum)
    next_name = f"{end} {key(items[end])}" if end < len(items) else ""
    return list(items[start:end]), base64.urlsafe_b64encode(next_name.encode()).decode()


def _find_page_start(token: str, keys: list[str]) -> int:
    """The index in *keys* where the page of *token* begins: that of the key in it, or where that key once was."""
    if not token:
        return 0
    try:
        text, _, name = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(" ")
    except (binascii.Error, ValueError):
        text, name = "", ""
    index = parse_number(text)
    if index is None or not name:
        raise invalid("The page token is invalid.")
    return keys.index(name) if name in keys else index


def reply(request: Request, document: Document) -> Response:
    """Respond with 200 and *document*, or the part of it that the system parameter `fields` selects.

    Raises:
        GoogleError: INVALID_ARGUMENT: `fields` is no field mask.
    """
    mask = request.query_params.get("fields", "")
    return JSONResponse(select_fields(document, mask) if mask and mask != "*" else document)


def select_fields(document: Any, mask: str) -> Any:
    """Select the part of *document* that *mask* names (`services/name,nextPageToken`, `services(name,state)`).

    Raises:
        GoogleError: INVALID_ARGUMENT: *mask* is no field mask.
    """
    selection, remainder = _parse_mask(mask)
    if remainder:
        raise invalid(f"Invalid field selection {mask}")
    return _select(document, selection)


def _select(value: Any, selection: dict[str, Any]) -> Any:
    if not selection or "*" in selection:
        return value
    if isinstance(value, list):
        return [_select(item, selection) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("Document", value)
    return {name: _select(fields[name], inner) for name, inner in selection.items() if name in fields}


def _build_object(pairs: list[tuple[str, Any]]) -> Document:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        fields = ObjectWithDuplicates(fields)
        fields.duplicates = tuple(name for name, count in counts.items() if count > 1)
    return fields


def _reject_constant(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is out of range")
    return value


def _parse_mask(mask: str, depth: int = 0) -> tuple[dict[str, Any], str]:
    """Parse the tree of names at the start of *mask*; the second result is the rest, from an unmatched bracket on."""
    if depth > _MAX_DEPTH or mask.count("/") + mask.count(".") > _MAX_DEPTH:
        raise invalid("Invalid field selection: it is nested too deeply.")
    tree: dict[str, Any] = {}
    while True:
        end = next((index for index, character in enumerate(mask) if character in ",()"), len(mask))
        path, mask = mask[:end], mask[end:]
        if not path.strip():
            raise invalid("Invalid field selection: a name is missing.")
        subtree = tree
        for name in path.strip().replace(".", "/").split("/"):
            subtree = subtree.setdefault(name, {})
        if mask.startswith("("):
            nested, mask = _parse_mask(mask[1:], depth + 1)
            if not mask.startswith(")"):
                raise invalid("Invalid field selection: a bracket is not closed.")
            subtree.update(nested)
            mask = mask[1:]
        if not mask.startswith(","):
            return tree, mask
        mask = mask[1:]
