"""HTTP/1.1 to one container: kept-alive connections, bodies streamed both ways."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpcore2 as httpcore

from mcpfleet_local_cloud.network.dial import Dial, direct

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


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that was dialed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - as httpcore has it
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as late:
            raise httpcore.ReadTimeout from late
        except OSError as broken:
            raise httpcore.ReadError(str(broken)) from broken

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as httpcore has it
        try:
            self._writer.write(buffer)
            async with asyncio.timeout(timeout):
                await self._writer.drain()
        except TimeoutError as late:
            raise httpcore.WriteTimeout from late
        except OSError as broken:
            raise httpcore.WriteError(str(broken)) from broken

    async def aclose(self) -> None:
        self._writer.close()

    def get_extra_info(self, info: str) -> Any:
        return self._reader.at_eof() if info == "is_readable" else None


class _Dialed(httpcore.AsyncNetworkBackend):
    """Connections that *dial* makes."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                return _Stream(*await asyncio.open_connection(sock=await self._dial(host, port)))
        except TimeoutError as late:
            raise httpcore.ConnectTimeout from late
        except OSError as refused:
            raise httpcore.ConnectError(str(refused)) from refused

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class HttpUpstream:
    """One container's server, at *host*:*port*, reached by *dial*."""

    def __init__(self, host: str, port: int, dial: Dial = direct) -> None:
        self._host = host.encode()
        self._port = port
        # The number of requests is the instance pool's affair, not the connection pool's.
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None, keepalive_expiry=_KEEP_SECONDS, network_backend=_Dialed(dial)
        )

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
