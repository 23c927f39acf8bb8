"""HTTP requests from a relay to a private service, over pooled connections, and their failures.

`FailedError.may_be_done` tells whether the service may have handled a request that failed. The caller decides about
retries.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

import httpx2

from mcpfleet import sse
from mcpfleet.auth import IdTokenAuth
from mcpfleet.bounds import ResponseLimit, TooLargeError
from mcpfleet.diagnosis import Diagnosis, diagnose, is_from_front_end
from mcpfleet.errors import AuthError, TokenEndpointUnavailableError
from mcpfleet.inert import inert
from mcpfleet.net import connection_reason, create_client, is_certificate_error
from mcpfleet.target import Target

SLEEP_DETECTION_SECONDS = 5.0
"""If the wall clock advances by this much more than the monotonic clock, the machine was asleep."""
MAX_RETRY_SECONDS = 30.0
"""The longest time of a Retry-After header that is respected."""

STREAM_BROKEN: Final = httpx2.TransportError
"""The error class of a response that breaks off."""
_REASON_CHARACTERS: Final = 300
"""The most characters of a connection error's reason, which may quote an invalid response."""


class FailedError(Exception):
    """A request failed without a usable response.

    Attributes:
        may_be_done: Whether the service may have handled the request.
        is_final: Whether a retry would fail, too.
        status: The HTTP status, if there was a response.
        retry_seconds: The time that the service asks to wait before a retry.
    """

    def __init__(
        self,
        text: str,
        *,
        may_be_done: bool,
        is_final: bool = False,
        status: int | None = None,
        retry_seconds: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.may_be_done = may_be_done
        self.is_final = is_final
        self.status = status
        self.retry_seconds = retry_seconds


async def events(response: httpx2.Response) -> AsyncGenerator[sse.Event]:
    """Yield the events of a stream. Raises `STREAM_BROKEN` if it breaks off."""
    parser = sse.EventParser()
    async for chunk in response.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


def is_stream(response: httpx2.Response) -> bool:
    """Return whether a response is a stream of events."""
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")


class Upstream:
    """A private service, called with one identity over pooled connections.

    Args:
        target: The service.
        auth: The identity.
        transport: The HTTP transport; the network by default.
        wall: Unix time in seconds.
        clock: A monotonic clock in seconds, which stops while the machine sleeps.
    """

    def __init__(
        self,
        target: Target,
        auth: IdTokenAuth,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.target = target
        self.auth = auth
        self.has_answered = False
        """Whether the service has ever responded."""
        self._url = httpx2.URL(target.mcp_url)
        self._transport = transport
        self._drift = lambda: wall() - clock()
        self._last_drift = self._drift()
        self._pool = self._create_pool()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.retire()

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """Send one request; the response must be read within the block.

        Raises:
            FailedError: There was no response, or it broke off while it was read.
        """
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise _invalid_header_error()
        drift = self._drift()
        if drift - self._last_drift > SLEEP_DETECTION_SECONDS:  # older connections have failed unnoticed
            old, self._pool = self._pool, self._create_pool()
            await old.retire()
        self._last_drift = drift
        has_started = False
        try:
            request = httpx2.Request(method, self._url, headers=headers, content=content)
            async with self._pool.send(request) as response:
                has_started = self.has_answered = True
                yield response
        except STREAM_BROKEN as error:
            raise self._transport_failure(error, has_started=has_started) from error
        except TokenEndpointUnavailableError as error:
            raise FailedError(str(error), may_be_done=False) from error
        except AuthError as error:
            raise FailedError(str(error), may_be_done=False, is_final=True) from error

    def _transport_failure(self, error: httpx2.TransportError, *, has_started: bool) -> FailedError:
        origin = self.target.origin
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)):
            text = f"Cannot reach {origin}: {_reason(error)}."
            return FailedError(text, may_be_done=False, is_final=is_certificate_error(error))
        if isinstance(error, httpx2.LocalProtocolError):
            return _invalid_header_error()
        problem = f"The response of {origin} broke off" if has_started else f"{origin} broke off without a response"
        return FailedError(f"{problem}: {_reason(error)}.", may_be_done=True, is_final=isinstance(error, TooLargeError))

    def check_status(self, response: httpx2.Response) -> FailedError | None:
        """Return the failure that a response's status means; None if the response is the MCP server's reply."""
        status, headers = response.status_code, response.headers
        if status == 429:
            diagnosis = self._diagnose(response) or "429: the server accepts no more calls at the moment."
            # Cloud Run's own 429 means that no instance got the request. A server may send one after part of the work.
            may_be_done = not is_from_front_end(status, headers)
            return FailedError(
                str(diagnosis), may_be_done=may_be_done, status=status, retry_seconds=_retry_after(headers)
            )
        diagnosis = self._diagnose(response)
        if diagnosis is None:
            return None
        # With these, the request reached the service, which may have handled it.
        may_be_done = status >= 500
        return FailedError(
            str(diagnosis),
            may_be_done=may_be_done,
            is_final=status not in {502, 503},
            status=status,
            retry_seconds=_retry_after(headers),
        )

    def _diagnose(self, response: httpx2.Response) -> Diagnosis | None:
        return diagnose(response.status_code, response.headers, self.target, self.auth.tokens.caller)

    def _create_pool(self) -> _ConnectionPool:
        return _ConnectionPool(
            create_client(self.auth, self.target.on_this_machine, self._transport, limit=ResponseLimit())
        )


class _ConnectionPool:
    """A pool of connections, which is closed after its last request once it is retired."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def send(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Response]:
        self._users += 1
        try:
            response = await self._client.send(request, stream=True)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._users -= 1
            await self._close_unused()

    async def retire(self) -> None:
        self._retired = True
        await self._close_unused()

    async def _close_unused(self) -> None:
        if self._retired and self._users == 0:
            await self._client.aclose()


def _retry_after(headers: Mapping[str, str]) -> float:
    """The seconds of a Retry-After header; 0 if there is none, or it is a date."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), MAX_RETRY_SECONDS) if text.isascii() and text.isdecimal() else 0.0


def _reason(error: BaseException) -> str:
    return inert(connection_reason(error).rstrip("."), _REASON_CHARACTERS)


def _invalid_header_error() -> FailedError:
    text = "A header of this request has control characters, or others that HTTP does not allow."
    return FailedError(text, may_be_done=False, is_final=True)
