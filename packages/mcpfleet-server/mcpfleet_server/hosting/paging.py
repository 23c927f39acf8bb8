"""Lists in pages: MCP's cursors, for the lists of any server of the official SDK."""

import base64
import binascii
from collections.abc import Callable, Mapping
from typing import Any, Final

from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, PaginatedRequestParams

PAGE_SIZE: Final = 50

_LISTS: Final[Mapping[str, str]] = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resource_templates",
    "prompts/list": "prompts",
}


def paginate(lowlevel: Any, size: int = PAGE_SIZE) -> None:
    """Give each list of a low-level server in pages of *size*.

    A cursor is a place in the list. The order of the SDK's lists is that of registration, the same at each instance
    of a revision, so any of them can go on where another stopped.
    """
    for method, field in _LISTS.items():
        entry = lowlevel.get_request_handler(method)
        if entry is not None:
            lowlevel.add_request_handler(method, PaginatedRequestParams, _paged(entry.handler, field, size))


def _paged(handler: Callable[[Any, Any], Any], field: str, size: int) -> Callable[[Any, PaginatedRequestParams], Any]:
    async def page(ctx: Any, params: PaginatedRequestParams) -> Any:
        start = _place(params.cursor)
        result = await handler(ctx, params)
        entries = getattr(result, field)
        if start > len(entries):
            raise MCPError(INVALID_PARAMS, "Invalid cursor")
        more = _cursor(start + size) if start + size < len(entries) else None
        return result.model_copy(update={field: entries[start : start + size], "next_cursor": more})

    return page


def _cursor(place: int) -> str:
    return base64.urlsafe_b64encode(b"%d" % place).decode()


def _place(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        text = base64.urlsafe_b64decode(cursor.encode("ascii"))
        place = int(text) if text.isdigit() and len(text) < 10 else -1
    except (ValueError, binascii.Error):
        place = -1
    if place < 0:
        raise MCPError(INVALID_PARAMS, "Invalid cursor")
    return place
