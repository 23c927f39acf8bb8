"""Client ID metadata documents: a client whose ID is the https URL of a document about it.

draft-ietf-oauth-client-id-metadata-document, which MCP's 2025-11-25 revision recommends. Anybody can name any URL, so
the document is fetched only from public addresses, and neither size nor time nor redirects are left to its host.
"""

import asyncio
import ipaddress
import json
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast
from urllib.parse import urlsplit

import httpcore2

MAX_DOCUMENT_BYTES: Final = 10 * 1024
"""The draft recommends 5 KiB; some clients' documents are larger."""

_FETCH_SECONDS: Final = 5.0
_MAX_FETCHES: Final = 8
_MAX_AGE_SECONDS: Final = 600.0
_FAILURE_SECONDS: Final = 30.0
"""How long a failure is remembered, so that requests here can't become a flood there."""
_CACHE_SIZE: Final = 256
_URL: Final = re.compile(r"https://(?P<host>[a-z0-9.-]+)/[A-Za-z0-9\-._~/!$&()*+,;=:@%?]+", re.ASCII)
_LAST_LABEL: Final = re.compile(r"[a-z][a-z0-9-]*", re.ASCII)
_UNICAST: Final = ipaddress.ip_network("2000::/3")


class DocumentError(Exception):
    """There is no usable document; the text says why."""


Fetch = Callable[[str], Awaitable[bytes]]
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


def is_document_url(client_id: str) -> bool:
    """Return whether a client ID is the URL of a metadata document.

    The host must be a name, not an address, with the default port; the path must not be empty or have `.` or `..`.
    """
    match = _URL.fullmatch(client_id) if len(client_id) <= 512 else None
    if match is None or _LAST_LABEL.fullmatch(match["host"].rpartition(".")[2]) is None or "." not in match["host"]:
        return False
    return not {".", ".."} & set(urlsplit(client_id).path.split("/"))


def is_public(address: str) -> bool:
    """Return whether an IP address is one of the public internet, itself and not by translation to another one."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        return ip in _UNICAST and ip.is_global and ip.sixtofour is None and ip.teredo is None
    return ip.is_global and not ip.is_multicast


async def resolve(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a host.

    Raises:
        OSError: The name has none.
    """
    entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


class PublicNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only: to the address that was checked, so the name can't change in between."""

    def __init__(self, backend: httpcore2.AsyncNetworkBackend | None = None, resolve: Resolve = resolve) -> None:
        self._backend: httpcore2.AsyncNetworkBackend = backend or cast("Any", httpcore2.AnyIOBackend)()
        self._resolve = resolve

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the interface's
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Connect to the host's first address, if all of its addresses are public."""
        try:
            addresses = await self._resolve(host, port)
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} has no address") from error
        if not addresses or not all(is_public(address) for address in addresses):
            raise httpcore2.ConnectError(f"{host} does not have public addresses only")
        return await self._backend.connect_tcp(addresses[0], port, timeout, local_address, socket_options)


def create_fetch(network: httpcore2.AsyncNetworkBackend, context: ssl.SSLContext | None = None) -> Fetch:
    """Return a function that fetches a document over https.

    Args:
        network: Opens connections.
        context: Verifies the host; by default with the system's certificate authorities.
    """
    limit = asyncio.Semaphore(_MAX_FETCHES)
    pool = httpcore2.AsyncConnectionPool(
        ssl_context=context or ssl.create_default_context(), max_keepalive_connections=0, network_backend=network
    )

    async def fetch(url: str) -> bytes:
        headers = [
            ("host", str(urlsplit(url).hostname)),
            ("accept", "application/json"),
            ("accept-encoding", "identity"),
        ]
        try:
            async with (
                asyncio.timeout(_FETCH_SECONDS),
                limit,
                pool.stream("GET", url, headers=headers) as answer,
            ):
                fields = {name.lower(): value for name, value in answer.headers}
                if answer.status != 200:
                    raise DocumentError(f"the document's host answered {answer.status}")
                if fields.get(b"content-encoding", b"identity") != b"identity":
                    raise DocumentError("the document is compressed")
                body = b""
                async for part in answer.aiter_stream():
                    body += part
                    if len(body) > MAX_DOCUMENT_BYTES:
                        raise DocumentError(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
                return body
        except TimeoutError as error:
            raise DocumentError(f"the document's host took longer than {_FETCH_SECONDS:g} s") from error
        except (
            httpcore2.NetworkError,
            httpcore2.TimeoutException,
            httpcore2.ProtocolError,
            httpcore2.UnsupportedProtocol,
            OSError,
        ) as error:
            raise DocumentError("the document can't be fetched from a public address") from error

    return fetch


class ClientDocuments:
    """Fetches documents, and keeps each for a short time.

    Args:
        fetch: Fetches one.
        clock: A monotonic clock in seconds.
    """

    def __init__(self, fetch: Fetch, clock: Callable[[], float] = time.monotonic) -> None:
        self._fetch = fetch
        self._clock = clock
        self._cache: dict[str, tuple[Mapping[str, Any] | DocumentError, float]] = {}

    async def get(self, url: str) -> Mapping[str, Any]:
        """Return the document at a URL for which `is_document_url` is true.

        Raises:
            DocumentError: There is none about this URL.
        """
        document, valid_until = self._cache.get(url, (None, 0.0))
        if document is None or self._clock() >= valid_until:
            seconds = _MAX_AGE_SECONDS
            try:
                document = _parse(await self._fetch(url), url)
            except DocumentError as error:
                document, seconds = error, _FAILURE_SECONDS
            self._cache.pop(url, None)
            if len(self._cache) >= _CACHE_SIZE:
                del self._cache[next(iter(self._cache))]
            self._cache[url] = document, self._clock() + seconds
        if isinstance(document, DocumentError):
            raise DocumentError(str(document)) from document
        return document


def _parse(body: bytes, url: str) -> Mapping[str, Any]:
    try:
        document: object = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise DocumentError("the document is not JSON") from error
    if not isinstance(document, dict):
        raise DocumentError("the document is not a JSON object")
    members = cast("dict[str, Any]", document)
    if members.get("client_id") != url:
        raise DocumentError("the document's client_id is not its URL")
    return members
