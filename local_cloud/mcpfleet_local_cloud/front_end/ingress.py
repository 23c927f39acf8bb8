"""The front end of every service: checks the caller, finds an instance, streams both ways (docs/google-apis.md 5.1).

One ASGI app for all services; which one is meant follows from the loopback port. It keeps no request and no response in
memory. WebSocket upgrades are refused by name.
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
    Rights,
    Verifier,
    affinity_cookie,
    forwarded,
    returned,
)
from mcpfleet_local_cloud.front_end.routing import RoutedRequest, Router, at_port, host_of
from mcpfleet_local_cloud.identity.tokens import Claims
from mcpfleet_local_cloud.network.upstream import Answer, Headers, Upstream, UpstreamError

LIMIT: Final = 32 * 1024 * 1024
"""Bytes of an HTTP/1 request, and of a response that declares its length."""
_HIGHEST_STATUS: Final = 599
_log = logging.getLogger(__name__)


class Lease(Protocol):
    """An instance's promise to take one request."""

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
        """What names the instance in the affinity cookie; empty where there is none."""
        ...

    def release(self) -> None:
        """The request is over."""
        ...


class Backend(Protocol):
    """Where instances come from: the data plane."""

    async def lease(self, service: str, affinity: str = "") -> Lease:
        """An instance for one request, the one that *affinity* names if possible.

        Raises:
            NoInstanceError: none has room in time.
            NoRevisionError: no revision is ready.
        """
        ...


class _ClientGoneError(Exception):
    """The caller closed the connection."""


class _TooLargeError(Exception):
    """The request's body passed the limit."""


def create_ingress(
    lookup: Callable[[int], ServiceEndpoint | None],
    identity: Verifier,
    policies: Rights,
    backend: Backend,
    stands: Callable[[Claims], bool] = lambda _: True,
) -> ASGIApp:
    """The ASGI app for requests from outside.

    Args:
        lookup: the service that answers on a loopback port.
        identity: checks ID tokens.
        policies: knows who may invoke what.
        backend: gives instances.
        stands: see `Guard`.
    """
    return create_front(at_port(lookup), Authorizer(identity, policies, stands), backend)


def create_front(arrive: Router, guard: Authorizer, backend: Backend) -> ASGIApp:
    """The ASGI app for requests that arrive as *arrive* says, and pass *guard*."""

    async def ingress(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers: Headers = scope["headers"]
        path: str = scope["path"]
        arrival = arrive(scope)
        if arrival.redirect is not None:
            await _send_page(send, pages.redirect(*arrival.redirect))
            return
        if arrival.unserved:
            await _send_page(send, pages.no_backend())
            return
        verdict = guard.check(arrival, headers, path)
        if isinstance(verdict, Denied) or arrival.door is None:
            refusal = verdict if isinstance(verdict, Denied) else Denied(pages.not_found(path), "")
            where = f"on port {arrival.port}" if arrival.port else f"at {host_of(headers)}"
            _log.info("%d %s %s %s: %s", refusal.page.status, scope["method"], path, where, refusal.reason)
            await _send_page(send, refusal.page)
        elif any(name == b"upgrade" and value.lower() == b"websocket" for name, value in headers):
            await _send_page(send, pages.no_websockets())
        elif _declared_length(headers) > LIMIT:
            await _send_page(send, pages.too_large())
        else:
            await _Exchange(scope, receive, send, arrival.door.service, arrival).run(backend, verdict)

    return ingress


@dataclass
class _Exchange:
    """One request on its way to an instance and back."""

    scope: Scope
    receive: Receive
    send: Send
    service: str
    arrival: RoutedRequest
    began: bool = False
    """The response's head is out: from here on an error can only cut the connection."""
    gone: bool = False
    over: bool = False
    watch: asyncio.Task[None] | None = None
    cookie: str = ""
    """The instance that the caller is to be sent to again, where its cookie does not say so yet."""

    async def run(self, backend: Backend, passage: Allowed) -> None:
        try:
            page = await self._attempt(backend, passage)
        except NoInstanceError:
            page = pages.no_instance()
        except NoRevisionError:
            page = pages.unavailable()
        except UpstreamError as broken:
            _log.warning("%s: connection to the instance had an error: %s", self.service, broken)
            page = pages.broken()
        except _TooLargeError:
            page = pages.too_large()
        except _ClientGoneError:
            return
        if page is not None and not self.began:
            await _send_page(self.send, page)
        # Where the response had begun, returning without its end lets the server cut the connection: an error that the
        # caller can see.

    async def _attempt(self, backend: Backend, passage: Allowed) -> pages.Page | None:
        """Forward the request; returns the page to answer with where there is no answer to pass on."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as deadline:
                body = self._body(deadline) if _has_body(self.scope["headers"]) else None
                if body is None:
                    self._watch_client(deadline)
                given = affinity_cookie(self.scope["headers"])
                lease = await backend.lease(self.service, given)
                self.cookie = lease.affinity if lease.affinity != given else ""
                deadline.reschedule(loop.time() + lease.timeout)
                try:
                    if self.gone:
                        raise _ClientGoneError
                    return await self._forward(lease.upstream, passage, body)
                finally:
                    lease.release()
        except TimeoutError:
            if self.gone:
                raise _ClientGoneError from None
            _log.warning("%s: the request was cut off by the request timeout", self.service)
            return pages.timed_out()
        finally:
            if self.watch is not None:
                self.watch.cancel()

    async def _forward(
        self, upstream: Upstream, passage: Allowed, body: AsyncIterator[bytes] | None
    ) -> pages.Page | None:
        client: tuple[str, int] | None = self.scope["client"]
        headers = forwarded(self.scope["headers"], passage, client[0] if client else "127.0.0.1", self.arrival)
        query: bytes = self.scope["query_string"]
        target: bytes = self.scope["raw_path"] + (b"?" + query if query else b"")
        method = str(self.scope["method"]).encode()
        async with upstream.send(method, target, headers, body) as answer:
            return await self._pass_on(answer, method)

    async def _pass_on(self, answer: Answer, method: bytes) -> pages.Page | None:
        if not 200 <= answer.status <= _HIGHEST_STATUS:
            raise UpstreamError(f"{answer.status} is no status of HTTP")
        headers = returned(answer.headers, answer.status, self.arrival)
        if self.cookie:
            headers.append((b"set-cookie", AFFINITY + b"=%s; Max-Age=2592000; Path=/; HttpOnly" % self.cookie.encode()))
        if method != b"HEAD" and _declared_length(headers) > LIMIT:
            _log.warning("%s: the response is larger than 32 MiB and not streamed", self.service)
            return pages.response_too_large()
        self.began = True
        await self.send({"type": "http.response.start", "status": answer.status, "headers": headers})
        # The piece that completes a declared length is sent as the last: a caller that has it all may send its next
        # request at once, and the connection must be ready for that.
        left = _declared_length(headers) if method != b"HEAD" else 0
        async for chunk in answer.body:
            left -= len(chunk)
            self.over = left == 0
            await self.send({"type": "http.response.body", "body": chunk, "more_body": not self.over})
        if not self.over:
            self.over = True
            await self.send({"type": "http.response.body", "body": b"", "more_body": False})
        return None

    async def _body(self, deadline: asyncio.Timeout) -> AsyncIterator[bytes]:
        size = 0
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise _ClientGoneError
            chunk: bytes = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(chunk)
            if size > LIMIT:
                raise _TooLargeError
            if chunk:
                yield chunk
        self._watch_client(deadline)

    def _watch_client(self, deadline: asyncio.Timeout) -> None:
        """Give up the exchange as soon as the caller closes the connection."""

        async def watch() -> None:
            while (await self.receive())["type"] != "http.disconnect":
                pass
            if not self.over:
                self.gone = True
                deadline.reschedule(asyncio.get_running_loop().time())

        self.watch = asyncio.create_task(watch())


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
