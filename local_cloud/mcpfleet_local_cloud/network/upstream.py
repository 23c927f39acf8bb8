"""HTTP/1.1 to one container: kept-alive connections, bodies streamed both ways."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final, Protocol

import httpcore2 as httpcore

Headers = list[tuple[bytes, bytes]]
_CONNECT_SECONDS: Final = 5.0
_KEEP_SECONDS: Final = 4.0
"""Below the 5 s after which uvicorn and Node close an idle connection, so that we never write into a closing one."""


class UpstreamError(Exception):
    """The container closed or broke the connection, or what it said is not HTTP."""


@dataclass(frozen=True)
class Answer:
    """A response whose body is still on its way."""

    status: int
    headers: Headers
    body: AsyncIterator[bytes]


class Upstream(Protocol):
    """Where the ingress sends a request."""

    def send(
        self, method: bytes, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AbstractAsyncContextManager[Answer]:
        """Send a request; leaving the context gives up whatever is still on its way.

        Raises:
            UpstreamError: also from the answer's body.
        """
        ...


class HttpUpstream:
    """One container's server, at *host*:*port*."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host.encode()
        self._port = port
        # The number of requests is the instance pool's affair, not the connection pool's.
        self._pool = httpcore.AsyncConnectionPool(max_connections=None, keepalive_expiry=_KEEP_SECONDS)

    @asynccontextmanager
    async def send(
        self, method: bytes, target: bytes, headers: Headers, body: AsyncIterator[bytes] | None
    ) -> AsyncGenerator[Answer]:
        """See `Upstream.send`."""
        url = httpcore.URL(scheme=b"http", host=self._host, port=self._port, target=target)
        timeouts = {"connect": _CONNECT_SECONDS}
        try:
            async with self._pool.stream(
                method, url, headers=headers, content=body, extensions={"timeout": timeouts}
            ) as response:
                yield Answer(response.status, response.headers, response.aiter_stream())
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as broken:
            raise UpstreamError(str(broken) or type(broken).__name__) from broken

    async def close(self) -> None:
        """Close every connection; what was on its way on one of them fails."""
        await self._pool.aclose()
