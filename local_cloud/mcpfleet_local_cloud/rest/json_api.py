"""What every JSON API of Google's does with a request and an answer: bodies, unknown names, pages, partial answers."""

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
_DIGITS: Final = 18
_DEEPEST: Final = 100


Key = Callable[[Document], str]
"""What tells two documents of a list apart."""


def _name_of(document: Document) -> str:
    return document["name"]


def stamp(seconds: float, digits: Literal["seconds", "milliseconds", "microseconds"] = "microseconds") -> str:
    """A time (seconds since the epoch) in RFC 3339, as Google's documents have it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=digits).replace("+00:00", "Z")


def parse_json(content: bytes) -> Any:
    """The JSON value of *content*.

    Raises:
        GoogleError: INVALID_ARGUMENT in Google's words, with the place.
    """
    try:
        return strict_json(content)
    except (ValueError, RecursionError) as refusal:
        raise invalid(f"Invalid JSON payload received. Unexpected token.\n{refusal}") from refusal


def strict_json(content: bytes) -> Any:
    """The JSON value of *content*, which can be kept and sent out again.

    Python reads more than JSON has: `NaN`, numbers beyond a double's range, and halves of a surrogate pair, which no
    UTF-8 can hold, so that a resource with one in its description could never be shown again.

    Raises:
        ValueError: not JSON.
        RecursionError: nested too deeply.
    """
    value = json.loads(content, parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_object)
    if b"\\u" in content:
        json.dumps(value, ensure_ascii=False).encode()
    return value


class Twice(dict[str, Any]):
    """A JSON object that has a name more than once; `names` are those."""

    names: tuple[str, ...] = ()


def as_object(value: Any) -> Document | None:
    """*value* where it is a JSON object, else None."""
    return cast("Document", value) if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """*value* where it is a JSON array, else None."""
    return cast("list[Any]", value) if isinstance(value, list) else None


def number(text: str) -> int | None:
    """The whole number that a parameter's *text* is; None where it is none, or beyond every sensible size."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _DIGITS else None


def required(fields: Mapping[str, Any], name: str, at: str = "") -> str:
    """The string *name* among *fields* of the message at the path *at*.

    Raises:
        GoogleError: INVALID_ARGUMENT: it is left out, or empty.
    """
    if not fields.get(name):
        raise invalid(f"{f'{at}.{name}' if at else name} is required.")
    return str(fields[name])


def listed(
    request: Request, field: str, found: Sequence[Document], *, default: int, maximum: int, key: Key = _name_of
) -> Document:
    """One page of a list, as `page` cuts it.

    Raises:
        GoogleError: INVALID_ARGUMENT: not a size, not a token.
    """
    some, following = page(request, found, default=default, maximum=maximum, key=key)
    return {**({field: some} if some else {}), **({"nextPageToken": following} if following else {})}


def page(
    request: Request, found: Sequence[Document], *, default: int, maximum: int, key: Key = _name_of
) -> tuple[list[Document], str]:
    """One page of *found*, and the token of the next, as `pageSize` (or `maxResults`) and `pageToken` ask.

    A token names what the next page begins with, so that a caller who deletes what it has seen misses nothing.

    Args:
        request: the call of the list.
        found: the whole list, in an order that stays.
        default: how many there are on a page of a caller who does not say.
        maximum: how many there are at most.
        key: what tells two of the list apart.

    Raises:
        GoogleError: INVALID_ARGUMENT: not a size, not a token.
    """
    asked = request.query_params
    name, shown = ("maxResults", "maxResults") if "maxResults" in asked else ("pageSize", "page_size")
    size = number(asked.get(name) or "0")
    if size is None:
        raise invalid(f"Invalid value at '{shown}' (TYPE_INT32), {json.dumps(asked[name])}")
    start = _start(asked.get("pageToken", ""), [key(one) for one in found])
    end = start + min(size or default, maximum)
    following = f"{end} {key(found[end])}" if end < len(found) else ""
    return list(found[start:end]), base64.urlsafe_b64encode(following.encode()).decode()


def _start(token: str, keys: list[str]) -> int:
    """Where the page of *token* begins among *keys*: at the one that it names, else where that was."""
    if not token:
        return 0
    try:
        place, _, name = base64.b64decode(token, altchars=b"-_", validate=True).decode().partition(" ")
    except (binascii.Error, ValueError):
        place, name = "", ""
    index = number(place)
    if index is None or not name:
        raise invalid("The page token is invalid.")
    return keys.index(name) if name in keys else index


def reply(request: Request, document: Document) -> Response:
    """A 200 with *document*, or the part of it that the system parameter `fields` asks for.

    Raises:
        GoogleError: INVALID_ARGUMENT: not a field mask.
    """
    mask = request.query_params.get("fields", "")
    return JSONResponse(part(document, mask) if mask and mask != "*" else document)


def part(document: Any, mask: str) -> Any:
    """What *mask* (`services/name,nextPageToken`, `services(name,state)`) leaves of *document*.

    Raises:
        GoogleError: INVALID_ARGUMENT: not a field mask.
    """
    wanted, rest = _parse_mask(mask)
    if rest:
        raise invalid(f"Invalid field selection {mask}")
    return _select(document, wanted)


def _select(value: Any, wanted: dict[str, Any]) -> Any:
    if not wanted or "*" in wanted:
        return value
    if isinstance(value, list):
        return [_select(one, wanted) for one in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("Document", value)
    return {name: _select(fields[name], below) for name, below in wanted.items() if name in fields}


def _object(pairs: list[tuple[str, Any]]) -> Document:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        several = Counter(name for name, _ in pairs)
        fields = Twice(fields)
        fields.names = tuple(name for name, times in several.items() if times > 1)
    return fields


def _no_constant(constant: str) -> Never:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text} is out of range")
    return value


def _parse_mask(mask: str, depth: int = 0) -> tuple[dict[str, Any], str]:
    """The tree of names that *mask* begins with, and what follows it (from the first unmatched bracket)."""
    if depth > _DEEPEST or mask.count("/") + mask.count(".") > _DEEPEST:
        raise invalid("Invalid field selection: it is nested too deeply.")
    tree: dict[str, Any] = {}
    while True:
        end = next((at for at, sign in enumerate(mask) if sign in ",()"), len(mask))
        path, mask = mask[:end], mask[end:]
        if not path.strip():
            raise invalid("Invalid field selection: a name is missing.")
        below = tree
        for name in path.strip().replace(".", "/").split("/"):
            below = below.setdefault(name, {})
        if mask.startswith("("):
            inner, mask = _parse_mask(mask[1:], depth + 1)
            if not mask.startswith(")"):
                raise invalid("Invalid field selection: a bracket is not closed.")
            below.update(inner)
            mask = mask[1:]
        if not mask.startswith(","):
            return tree, mask
        mask = mask[1:]
