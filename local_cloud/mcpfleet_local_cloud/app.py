"""The control plane as one ASGI app: every API below its prefix, Google's errors, one log line for each request."""

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
# The registry takes whole image layers, and Cloud Storage whole objects; both check them themselves.
_UNLIMITED: Final = ("/v2/", "/upload/")
_WAITING: Final = ("/run/", "/artifactregistry/", "/_local/inventory")
_GONE: Final = 499
"""What the log says of a caller who hung up (nginx's number; no caller sees it)."""
LogLine = Callable[[dict[str, Any]], None]


def log_to_stderr(line: dict[str, Any]) -> None:
    """One JSON object on one line of standard error."""
    sys.stderr.write(json.dumps(line, separators=(",", ":")) + "\n")
    sys.stderr.flush()


def create_app(cloud: Cloud, log: LogLine = log_to_stderr) -> Starlette:
    """The control plane of *cloud*; each request's line goes to *log*.

    The app starts and stops nothing: whoever made *cloud* does (`Cloud.start`, `Cloud.stop`).
    """
    return Starlette(
        routes=[*cloud.routes(), *admin.routes(cloud)],
        middleware=[
            Middleware(_Watch, log=log),
            Middleware(_NoPages),
            Middleware(_BodyLimit),
            Middleware(_Patience, cloud=cloud),
        ],
        exception_handlers={GoogleError: _google_error, HTTPException: _http_error, json.JSONDecodeError: _bad_json},
    )


def create_registry(cloud: Cloud, log: LogLine = log_to_stderr) -> Starlette:
    """The registry of *cloud* alone, for Docker, which need not reach the control plane."""
    return Starlette(
        routes=registry.routes(cloud.catalog, cloud.repositories),
        middleware=[Middleware(_Watch, log=log), Middleware(_NoPages)],
        exception_handlers={GoogleError: _google_error, HTTPException: _http_error},
    )


async def _google_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, GoogleError)  # noqa: S101 - Starlette's type of a handler is wider than what it passes
    headers = {"WWW-Authenticate": 'Bearer realm="https://accounts.google.com/"'} if error.http_code == 401 else None
    return JSONResponse(error.body(), status_code=error.http_code, headers=headers)


async def _bad_json(request: Request, error: Exception) -> Response:
    return await _google_error(request, invalid(f"Invalid JSON payload received. Unexpected token.\n{error}"))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    if error.status_code == 404:
        message = f"The local cloud has no method {request.method} {request.url.path}."
        return await _google_error(request, GoogleError("NOT_FOUND", message))
    message = f"{error.detail}: {request.method} {request.url.path}"
    body = {"error": {"code": error.status_code, "message": message, "status": "INVALID_ARGUMENT"}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


class _Watch:
    """Logs each request, and answers for what nobody foresaw."""

    def __init__(self, app: ASGIApp, log: LogLine) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status, request_id = time.perf_counter(), 0, uuid4().hex

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        scope.setdefault("state", {})
        try:
            await self._app(scope, receive, sent)
        except ClientDisconnect:  # its upload ended half way; there is nobody to answer
            status = status or _GONE
        except Exception as broken:
            _log.exception("request %s broke", request_id)
            if status:
                raise
            await _broken(broken, request_id)(scope, receive, sent)
        finally:
            self._log(
                {
                    "severity": "ERROR" if status >= 500 or not status else "INFO",
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round((time.perf_counter() - began) * 1000, 2),
                    "caller": scope["state"].get("caller", ""),
                }
            )


def _broken(error: Exception, request_id: str) -> Response:
    # Not 500: Google's clients repeat such a request for minutes, and the user sees a hang.
    refusal = GoogleError(
        "UNIMPLEMENTED",
        f"The local cloud failed ({type(error).__name__}: {error}). Its log has the rest, under request {request_id}.",
    )
    return JSONResponse(refusal.body(), status_code=refusal.http_code)


class _NoPages:
    """Refuses what a web page had a browser send: nothing here is for pages, and this port is open to any of them.

    A browser says so in Origin or Sec-Fetch-Site, which no page can take out; `none` is an address that a person typed.
    A name that leads to this machine (DNS rebinding) makes a page's requests same-origin, so that is refused, too.
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
    """Refuses a body that no API of Google's would take, before it fills the memory."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_UNLIMITED):
            await self._app(scope, receive, send)
            return
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > BODY_LIMIT:
                raise _too_large()
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > BODY_LIMIT:
            refusal = _too_large()
            await JSONResponse(refusal.body(), status_code=refusal.http_code)(scope, receive, send)
            return
        await self._app(scope, counted, send)


class _Patience:
    """Lets nobody change a service while `Cloud.start` still brings back what an earlier process left.

    Who asks for a repository waits, too: its name is known once the gateway container runs. Others need not wait: what
    comes up meanwhile needs the registry, and may need tokens.
    """

    def __init__(self, app: ASGIApp, cloud: Cloud) -> None:
        self._app = app
        self._cloud = cloud

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(_WAITING):
            await self._cloud.ready.wait()
        await self._app(scope, receive, send)


def _too_large() -> GoogleError:
    return invalid(f"Request payload size exceeds the limit: {BODY_LIMIT} bytes.")
