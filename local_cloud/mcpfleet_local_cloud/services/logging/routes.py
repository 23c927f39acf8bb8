"""Cloud Logging v2 at `/logging/v2/`: `entries:list` for the log of one build."""

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
from mcpfleet_local_cloud.services.logging.model import LOG, LogEntries
from mcpfleet_local_cloud.state.store import Document

API: Final = "logging.googleapis.com"
_COMPARISON: Final = re.compile(r'\s*([a-zA-Z_.]+)\s*(>=|>|=)\s*"([^"\\]*)"\s*')
_PROJECT: Final = re.compile(r"projects/([^/]+)")
_MAX_PAGE_SIZE: Final = 1000


def routes(entries: LogEntries, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    return [Route("/logging/v2/entries:list", _Api(entries, authorizer).list, methods=["POST"])]


class _Api(Handlers):
    def __init__(self, entries: LogEntries, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._entries = entries

    async def list(self, request: Request) -> Response:
        self.authenticate(request)
        body = await read_body(request)
        names = body.get("resourceNames", [])
        match = _PROJECT.fullmatch(names[0]) if len(names) == 1 else None
        if match is None:
            raise unimplemented("resourceNames", "name one project: [projects/PROJECT].")
        project = str(self._authorizer.find_project(match[1])["projectId"])
        self._authorizer.require_api(project, API)
        self.require_permission(request, "logging.logEntries.list", f"projects/{project}")
        comparisons = _parse_filter(body.get("filter", ""))
        build, since = _find_build_id(comparisons, project), _normalize_time(comparisons.get(("timestamp", ">="), ""))
        order = body.get("orderBy", "")
        if order not in ("", "timestamp asc", "timestamp desc"):
            raise invalid(f"orderBy: {order!r} is neither 'timestamp asc' nor 'timestamp desc'.")
        entries = [
            entry
            for entry in self._entries.list_entries(project, build)
            if _normalize_time(str(entry["timestamp"])) >= since
        ]
        if order == "timestamp desc":
            entries.reverse()
        return json_api.reply(request, _paginate(entries, body))


def _paginate(entries: list[Document], body: Document) -> Document:
    size: int = body.get("pageSize") or 50
    first = json_api.parse_number(body.get("pageToken") or "0")
    if size < 1:
        raise invalid("page_size: must be positive.")
    if first is None:
        raise invalid("page_token: the page token is invalid.")
    last = first + min(size, _MAX_PAGE_SIZE)
    page: Document = {"entries": entries[first:last]} if entries[first:last] else {}
    return {**page, "nextPageToken": str(last)} if entries[last:] else page


def _parse_filter(text: str) -> dict[tuple[str, str], str]:
    """Parse comparisons joined by AND; everything else of Cloud Logging's query language is refused."""
    comparisons: dict[tuple[str, str], str] = {}
    for part in re.split(r"\bAND\b|\n", text):
        if not part.strip():
            continue
        match = _COMPARISON.fullmatch(part)
        if match is None:
            raise unimplemented(
                "filter", f'comparisons (field="value") joined by AND are understood, not {part.strip()!r}.'
            )
        comparisons[match[1], match[2]] = match[3]
    return comparisons


def _find_build_id(comparisons: dict[tuple[str, str], str], project: str) -> str:
    expected = {
        ("logName", "="): f"projects/{project}/logs/{LOG}",
        ("resource.type", "="): "build",
        ("resource.labels.project_id", "="): project,
    }
    for key, value in comparisons.items():
        if key in {("resource.labels.build_id", "="), ("timestamp", ">=")}:
            continue
        if expected.get(key) != value:
            raise unimplemented("filter", f'{key[0]}{key[1]}"{value}": the logs here are those of builds ({LOG}).')
    build = comparisons.get(("resource.labels.build_id", "="), "")
    if not build:
        raise unimplemented("filter", 'name the build: resource.labels.build_id="ID".')
    return build


def _normalize_time(text: str) -> str:
    """Bring an RFC 3339 time in UTC to nine decimal places, so that times can be compared as texts."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z", text)
    if not match:
        if text:
            raise invalid(f"filter: {text!r} is no timestamp in UTC, such as 2026-01-31T12:00:00Z.")
        return ""
    return f"{match[1]}.{(match[2] or '').ljust(9, '0')}"
