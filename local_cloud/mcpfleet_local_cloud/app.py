"""The control plane as one ASGI app: every API at its prefix, Google's error format, one log line per request."""

import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mcpfleet_local_cloud import admin, registry
from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid

_log = logging.getLogger(__name__)

BODY_LIMIT: Final = 10 * 1024 * 1024
# The registry accepts whole image layers, and Cloud Storage whole objects; both check the size themselves.
_UNLIMITED_PATHS: Final = ("/v2/", "/upload/")
_WAITING_PATHS: Final = ("/run/", "/artifactregistry/", "/_local/inventory")
_CLIENT_CLOSED_REQUEST: Final = 499
"""The status in the log for a caller who disconnected (nginx's number; no caller receives it)."""
LogLine = Callable[[dict[str, Any]], None]


def log_to_stderr(line: dict[str, Any]) -> None:
    """Write *line* as one JSON object on one line of standard error."""
    sys.stderr.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stderr.flush()


def create_app(cloud: Cloud, log: LogLine = log_to_stderr) -> Starlette:
    """Create the control plane of *cloud*; *log* receives one line per request.

    The app does not start or stop the cloud: that is up to the caller (`Cloud.start`, `Cloud.stop`).
    """
    return Starlette(
        routes=[*cloud.routes(), *admin.routes(cloud)],
        middleware=[
            Middleware(_RequestLog, log=log),
            Middleware(_RejectBrowsers),
            Middleware(_BodyLimit),
            Middleware(_WaitUntilReady, cloud=cloud),
        ],
        exception_handlers={GoogleError: _google_error, HTTPException: _http_error, json.JSONDecodeError: _json_error},
    )


def create_registry(cloud: Cloud, log: LogLine = log_to_stderr) -> Starlette:
    """Create an app with only the registry of *cloud*, for Docker, which has no need to reach the control plane."""
    return Starlette(
        routes=registry.routes(cloud.catalog, cloud.repositories),
        middleware=[Middleware(_RequestLog, log=log), Middleware(_RejectBrowsers)],
        exception_handlers={GoogleError: _google_error, HTTPException: _http_error},
    )


def create_storage(cloud: Cloud, log: LogLine = log_to_stderr) -> Starlette:
    """Create an app with only Cloud Storage's API of *cloud*, for containers, which can't reach the control plane."""
    return Starlette(
        routes=cloud.storage_routes(),
        middleware=[Middleware(_RequestLog, log=log), Middleware(_RejectBrowsers), Middleware(_BodyLimit)],
        exception_handlers={GoogleError: _google_error, HTTPException: _http_error, json.JSONDecodeError: _json_error},
    )


async def _google_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, GoogleError)  # noqa: S101 - Starlette declares a wider type than it passes
    headers = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'} if error.http_code == 401 else None
    return JSONResponse(error.body(), status_code=error.http_code, headers=headers)


async def _json_error(request: Request, error: Exception) -> Response:
    return await _google_error(request, invalid(f"Invalid JSON payload received. Unexpected token.\n{error}"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    if error.status_code == 404:
        message = f"The local cloud has no method {request.method} {request.url.path}."
        return await _google_error(request, GoogleError("NOT_FOUND", message))
    message = f"{error.detail}: {request.method} {request.url.path}"
    body = {"error": {"code": error.status_code, "message": message, "status": "INVALID_ARGUMENT"}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


class _RequestLog:
    """Logs each request, and responds to unexpected exceptions."""

    def __init__(self, app: ASGIApp, log: LogLine) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, request_id = time.perf_counter(), 0, uuid4().hex

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        scope.setdefault("state", {})
        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:  # the client disconnected during its upload, so there is nobody to respond to
            status = status or _CLIENT_CLOSED_REQUEST
        except Exception as error:
            _log.exception("request %s failed", request_id)
            if status:
                raise
            await _internal_error(error, request_id)(scope, receive, send_with_id)
        finally:
            self._log(
                {
                    "severity": "ERROR" if status >= 500 or not status else "INFO",
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round((time.perf_counter() - started) * 1000, 2),
                    "caller": scope["state"].get("caller", ""),
                }
            )


def _internal_error(error: Exception, request_id: str) -> Response:
    # Not 500: Google's clients would retry such a request for minutes, and the user would see a hang.
    refusal = GoogleError(
        "UNIMPLEMENTED",
        f"The local cloud failed ({type(error).__name__}: {error}). See request {request_id} in its log.",
    )
    return JSONResponse(refusal.body(), status_code=refusal.http_code)


class _RejectBrowsers:
    """Refuses requests that a browser sends for a web page: no API here is for pages, but any page can reach this port.

    A browser marks such a request with Origin or Sec-Fetch-Site, which no page can remove; `none` means an address that
    a person typed. A host name that resolves to this machine (DNS rebinding) makes a page's requests same-origin, so
    `same-origin` is refused, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and any(
            name == b"origin" or (name == b"sec-fetch-site" and value != b"none") for name, value in scope["headers"]
        ):
            refusal = GoogleError("PERMISSION_DENIED", "The local cloud's APIs are for programs, not for web pages.")
            await JSONResponse(refusal.body(), status_code=refusal.http_code)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _BodyLimit:
    """Refuses a body that is larger than any of Google's APIs accepts, before it fills the memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_UNLIMITED_PATHS):
            await self._app(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > BODY_LIMIT:
                raise _too_large_error()
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > BODY_LIMIT:
            refusal = _too_large_error()
            await JSONResponse(refusal.body(), status_code=refusal.http_code)(scope, receive, send)
            return
        await self._app(scope, receive_counted, send)


class _WaitUntilReady:
    """Delays requests for services while `Cloud.start` still restores the services of an earlier process.

    Requests for repositories wait, too: a repository's name is known only when the gateway container runs. Other
    requests must not wait, because the restored services need the registry, and may need tokens.
    """

    def __init__(self, app: ASGIApp, cloud: Cloud) -> None:
        self._app = app
        self._cloud = cloud

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_WAITING_PATHS):
            await self._cloud.ready.wait()
        await self._app(scope, receive, send)


def _too_large_error() -> GoogleError:
    return invalid(f"Request payload size exceeds the limit: {BODY_LIMIT} bytes.")
