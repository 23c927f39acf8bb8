"""Cloud Logging v2 below `/logging/v2/`: `entries:list` for the log of one build."""

import re
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid, unimplemented
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.services.logging.model import LOG, Entries
from mcpfleet_local_cloud.state.store import Document

API: Final = "logging.googleapis.com"
_COMPARISON: Final = re.compile(r'\s*([a-zA-Z_.]+)\s*(>=|>|=)\s*"([^"\\]*)"\s*')
_PROJECT: Final = re.compile(r"projects/([^/]+)")
_MOST: Final = 1000


def routes(entries: Entries, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    return [Route("/logging/v2/entries:list", _Api(entries, gate).list, methods=["POST"])]


class _Api(Handlers):
    def __init__(self, entries: Entries, gate: ApiAuthorizer) -> None:
        super().__init__(gate, API)
        self._entries = entries

    async def list(self, request: Request) -> Response:
        self.caller(request)
        body = await read_body(request)
        names = body.get("resourceNames", [])
        found = _PROJECT.fullmatch(names[0]) if len(names) == 1 else None
        if found is None:
            raise unimplemented("resourceNames", "name one project: [projects/PROJECT].")
        project = str(self._gate.project(found[1])["projectId"])
        self._gate.require_api(project, API)
        self.allow(request, "logging.logEntries.list", f"projects/{project}")
        asked = _comparisons(body.get("filter", ""))
        build, since = _build(asked, project), _time(asked.get(("timestamp", ">="), ""))
        order = body.get("orderBy", "")
        if order not in ("", "timestamp asc", "timestamp desc"):
            raise invalid(f"orderBy: {order!r} is neither 'timestamp asc' nor 'timestamp desc'.")
        entries = [one for one in self._entries.of(project, build) if _time(str(one["timestamp"])) >= since]
        if order == "timestamp desc":
            entries.reverse()
        return json_api.reply(request, _page(entries, body))


def _page(entries: list[Document], body: Document) -> Document:
    size: int = body.get("pageSize") or 50
    first = json_api.parse_number(body.get("pageToken") or "0")
    if size < 1:
        raise invalid("page_size: must be positive.")
    if first is None:
        raise invalid("page_token: the page token is invalid.")
    last = first + min(size, _MOST)
    page: Document = {"entries": entries[first:last]} if entries[first:last] else {}
    return {**page, "nextPageToken": str(last)} if entries[last:] else page


def _comparisons(text: str) -> dict[tuple[str, str], str]:
    """The comparisons that a filter joins by AND; Cloud Logging's language has more, which is refused."""
    found: dict[tuple[str, str], str] = {}
    for part in re.split(r"\bAND\b|\n", text):
        if not part.strip():
            continue
        one = _COMPARISON.fullmatch(part)
        if one is None:
            raise unimplemented(
                "filter", f'comparisons (field="value") joined by AND are understood, not {part.strip()!r}.'
            )
        found[one[1], one[2]] = one[3]
    return found


def _build(asked: dict[tuple[str, str], str], project: str) -> str:
    known = {
        ("logName", "="): f"projects/{project}/logs/{LOG}",
        ("resource.type", "="): "build",
        ("resource.labels.project_id", "="): project,
    }
    for key, value in asked.items():
        if key in {("resource.labels.build_id", "="), ("timestamp", ">=")}:
            continue
        if known.get(key) != value:
            raise unimplemented("filter", f'{key[0]}{key[1]}"{value}": the logs here are those of builds ({LOG}).')
    build = asked.get(("resource.labels.build_id", "="), "")
    if not build:
        raise unimplemented("filter", 'name the build: resource.labels.build_id="ID".')
    return build


def _time(text: str) -> str:
    """A time so that texts compare as times do: RFC 3339 in UTC, with six digits after the second."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", text)
    if not found:
        if text:
            raise invalid(f"filter: {text!r} is no timestamp in UTC, such as 2026-01-31T12:00:00Z.")
        return ""
    return f"{found[1]}.{(found[2] or '').ljust(9, '0')}"
