"""The front end of every service: checks the caller, leases an instance, streams both ways (docs/google-apis.md 5.1).

One ASGI app serves all services; the loopback port identifies the service. It streams requests and responses without
keeping them in memory. WebSocket upgrades are rejected with a message.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.data_plane.pool import NoInstanceError, NoRevisionError
from mcpfleet_local_cloud.front_end import pages
from mcpfleet_local_cloud.front_end.authorizer import (
    AFFINITY,
    Allowed,
    Authorizer,
    Denied,
    Permissions,
    Verifier,
    caller_headers,
    container_headers,
    read_affinity_cookie,
)
from mcpfleet_local_cloud.front_end.routing import RoutedRequest, Router, read_host, route_by_port
from mcpfleet_local_cloud.identity.tokens import Claims
from mcpfleet_local_cloud.network.upstream import Headers, Response, Upstream, UpstreamError

LIMIT: Final = 32 * 1024 * 1024
"""The largest HTTP/1 request, and the largest response that declares its length, in bytes."""
_HIGHEST_STATUS: Final = 599
_log = logging.getLogger(__name__)


class Lease(Protocol):
    """An instance that is reserved for one request."""

    @property
    def upstream(self) -> Upstream:
        """The instance."""
        ...

    @property
    def timeout(self) -> float:
        """Seconds that the request may take."""
        ...

    @property
    def affinity(self) -> str:
        """The value of the affinity cookie for the instance; empty without session affinity."""
        ...

    def release(self) -> None:
        """Release the instance after the request."""
        ...


class Backend(Protocol):
    """Leases instances: the data plane."""

    async def lease(self, service: str, affinity: str = "") -> Lease:
        """Lease an instance for one request, the one that *affinity* names if possible.

        Raises:
            NoInstanceError: None had room in time.
            NoRevisionError: No revision is ready.
        """
        ...


class _ClientGoneError(Exception):
    """The caller closed the connection."""


class _TooLargeError(Exception):
    """The request's body exceeds the limit."""


def create_ingress(
    find_endpoint: Callable[[int], ServiceEndpoint | None],
    identity: Verifier,
    policies: Permissions,
    backend: Backend,
    is_active: Callable[[Claims], bool] = lambda _: True,
) -> ASGIApp:
    """Create the ASGI app for requests at the services' loopback ports.

    Args:
        find_endpoint: Finds the service of a loopback port.
        identity: Verifies ID tokens.
        policies: The IAM policies.
        backend: Leases instances.
        is_active: See `Authorizer`.
    """
    return create_front_end(route_by_port(find_endpoint), Authorizer(identity, policies, is_active), backend)


def create_front_end(route: Router, authorizer: Authorizer, backend: Backend) -> ASGIApp:
    """Create the ASGI app for requests that *route* routes and *authorizer* admits."""

    async def ingress(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: Headers = scope["headers"]
        path: str = scope["path"]
        request = route(scope)
        if request.redirect is not None:
            await _send_page(send, pages.redirect(*request.redirect))
            return
        if request.has_no_backend:
            await _send_page(send, pages.no_backend())
            return
        decision = authorizer.check(request, headers, path)
        if isinstance(decision, Denied) or request.endpoint is None:
            denied = decision if isinstance(decision, Denied) else Denied(pages.not_found(path), "")
            location = f"on port {request.port}" if request.port else f"at {read_host(headers)}"
            _log.info("%d %s %s %s: %s", denied.page.status, scope["method"], path, location, denied.reason)
            await _send_page(send, denied.page)
        elif any(name == b"upgrade" and value.lower() == b"websocket" for name, value in headers):
            await _send_page(send, pages.no_websockets())
        elif _declared_length(headers) > LIMIT:
            await _send_page(send, pages.too_large())
        else:
            await _Exchange(scope, receive, send, request.endpoint.service, request).run(backend, decision)

    return ingress


@dataclass
class _Exchange:
    """One request that is forwarded to an instance, and its response."""

    scope: Scope
    receive: Receive
    send: Send
    service: str
    request: RoutedRequest
    has_started: bool = False
    """Whether the response's head was sent: from then on an error can only cut the connection."""
    is_client_gone: bool = False
    is_complete: bool = False
    watch_task: asyncio.Task[None] | None = None
    affinity_cookie: str = ""
    """The new value of the caller's affinity cookie; empty if the caller has it already."""

    async def run(self, backend: Backend, allowed: Allowed) -> None:
        try:
            page = await self._attempt(backend, allowed)
        except NoInstanceError:
            page = pages.no_instance()
        except NoRevisionError:
            page = pages.unavailable()
        except UpstreamError as error:
            _log.warning("%s: connection to the instance had an error: %s", self.service, error)
            page = pages.connection_error()
        except _TooLargeError:
            page = pages.too_large()
        except _ClientGoneError:
            return
        if page is not None and not self.has_started:
            await _send_page(self.send, page)
        # If the response has started, returning without its end makes the server cut the connection, which the caller
        # sees as an error.

    async def _attempt(self, backend: Backend, allowed: Allowed) -> pages.Page | None:
        """Forward the request; return an error page if no response can be passed on."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as deadline:
                body = self._body(deadline) if _has_body(self.scope["headers"]) else None
                if body is None:
                    self._watch_client(deadline)
                affinity = read_affinity_cookie(self.scope["headers"])
                lease = await backend.lease(self.service, affinity)
                self.affinity_cookie = lease.affinity if lease.affinity != affinity else ""
                deadline.reschedule(loop.time() + lease.timeout)
                try:
                    if self.is_client_gone:
                        raise _ClientGoneError
                    return await self._forward(lease.upstream, allowed, body)
                finally:
                    lease.release()
        except TimeoutError:
            if self.is_client_gone:
                raise _ClientGoneError from None
            _log.warning("%s: the request was cut off by the request timeout", self.service)
            return pages.timed_out()
        finally:
            if self.watch_task is not None:
                self.watch_task.cancel()

    async def _forward(
        self, upstream: Upstream, allowed: Allowed, body: AsyncIterator[bytes] | None
    ) -> pages.Page | None:
        client: tuple[str, int] | None = self.scope["client"]
        headers = container_headers(self.scope["headers"], allowed, client[0] if client else "127.0.0.1", self.request)
        query: bytes = self.scope["query_string"]
        target: bytes = self.scope["raw_path"] + (b"?" + query if query else b"")
        method = str(self.scope["method"]).encode()
        async with upstream.send(method, target, headers, body) as response:
            return await self._send_response(response, method)

    async def _send_response(self, response: Response, method: bytes) -> pages.Page | None:
        if not 200 <= response.status <= _HIGHEST_STATUS:
            raise UpstreamError(f"{response.status} is not an HTTP status")
        headers = caller_headers(response.headers, response.status, self.request)
        if self.affinity_cookie:
            headers.append(
                (b"set-cookie", AFFINITY + b"=%s; Max-Age=2592000; Path=/; HttpOnly" % self.affinity_cookie.encode())
            )
        if method != b"HEAD" and _declared_length(headers) > LIMIT:
            _log.warning("%s: the response is larger than 32 MiB and not streamed", self.service)
            return pages.response_too_large()
        self.has_started = True
        await self.send({"type": "http.response.start", "status": response.status, "headers": headers})
        # The chunk that completes a declared length is sent as the last: a caller that has received all of it may send
        # its next request at once, and the connection must be ready for that.
        remaining = _declared_length(headers) if method != b"HEAD" else 0
        async for chunk in response.body:
            remaining -= len(chunk)
            self.is_complete = remaining == 0
            await self.send({"type": "http.response.body", "body": chunk, "more_body": not self.is_complete})
        if not self.is_complete:
            self.is_complete = True
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    async def _body(self, deadline: asyncio.Timeout) -> AsyncIterator[bytes]:
        size = 0
        has_more = True
        while has_more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                self.is_client_gone = True
                raise _ClientGoneError
            chunk: bytes = message.get("body", b"")
            has_more = message.get("more_body", False)
            size += len(chunk)
            if size > LIMIT:
                raise _TooLargeError
            if chunk:
                yield chunk
        self._watch_client(deadline)

    def _watch_client(self, deadline: asyncio.Timeout) -> None:
        """Abort the exchange as soon as the caller closes the connection."""

        async def watch() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            if not self.is_complete:
                self.is_client_gone = True
                deadline.reschedule(asyncio.get_running_loop().time())

        self.watch_task = asyncio.create_task(watch())


async def _send_page(send: Send, page: pages.Page) -> None:
    headers = [*page.headers, (b"server", b"Google Frontend")]
    await send({"type": "http.response.start", "status": page.status, "headers": headers})
    await send({"type": "http.response.body", "body": page.body, "more_body": False})


def _declared_length(headers: Headers) -> int:
    for name, value in headers:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _has_body(headers: Headers) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip() != b"0") for name, value in headers
    )
