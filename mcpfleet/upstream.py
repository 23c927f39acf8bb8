"""The way from a relay to a private service: one pooled HTTP client, and what a failure says of the request.

What matters after a failure is whether the service may have carried the request out: `FailedError.done` says so.
Retrying is the caller's decision.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.request import getproxies

import httpx2

from mcpfleet.auth import IdTokenAuth
from mcpfleet.diagnosis import Finding, diagnose
from mcpfleet.errors import AuthError, TokenEndpointUnavailableError
from mcpfleet.net import connection_reason
from mcpfleet.target import Target

CONNECT_SECONDS = 30.0
IDLE_SECONDS = 60.0
"""How long an unused connection is kept: a new one costs a TLS handshake, an old one may be dead unnoticed."""
DEAD_SECONDS = 30
"""A peer that acknowledges nothing for this long is gone: its network, or ours."""
SLEPT_SECONDS = 5.0
"""The clock on the wall ran ahead of the monotonic one by this: the machine was asleep."""
LONGEST_WAIT_SECONDS = 30.0
"""The most that a service's Retry-After is believed."""

UNREADABLE = "is not an MCP endpoint's answer"


class FailedError(Exception):
    """A request without a usable answer.

    Attributes:
        done: False where the service has certainly not carried it out; True where it may have.
        final: Sending it again would fail again.
        status: The HTTP status, where there was one.
        wait: Seconds that the service asks to wait.
    """

    def __init__(
        self, text: str, *, done: bool, final: bool = False, status: int | None = None, wait: float = 0.0
    ) -> None:
        super().__init__(text)
        self.done = done
        self.final = final
        self.status = status
        self.wait = wait


@dataclass
class _Pool:
    client: httpx2.AsyncClient
    users: int = 0
    retired: bool = False


class Upstream:
    """A private service, asked with one identity over one connection pool.

    Args:
        target: The service.
        auth: The identity.
        transport: The way out; real HTTP if not given.
        wall: Seconds since 1970.
        clock: Seconds that stand still while the machine sleeps.
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
        self.answered = False
        """Whether anything has ever answered there."""
        self._transport = transport
        self._drift = lambda: wall() - clock()
        self._asleep_until_now = self._drift()
        self._pool = self._new_pool()
        self._url = httpx2.URL(target.mcp_url)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.client.aclose()

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """Send one request and hand out its answer, to be read within the block.

        Raises:
            FailedError: No answer came, or it broke off while it was read.
        """
        pool = await self._pool_after_sleep()
        request = httpx2.Request(method, self._url, headers=headers, content=content)
        pool.users += 1
        try:
            response = await self._begin(pool.client, request)
            try:
                yield response
            except httpx2.TransportError as error:
                raise FailedError(
                    f"The answer of {self.target.origin} broke off: {_words(error)}.", done=True
                ) from error
            finally:
                await response.aclose()
        finally:
            pool.users -= 1
            if pool.retired and pool.users == 0:
                await pool.client.aclose()

    async def _begin(self, client: httpx2.AsyncClient, request: httpx2.Request) -> httpx2.Response:
        origin = self.target.origin
        try:
            response = await client.send(request, stream=True)
        except TokenEndpointUnavailableError as error:
            raise FailedError(str(error), done=False) from error
        except AuthError as error:
            raise FailedError(str(error), done=False, final=True) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError) as error:
            untrusted = _is_certificate(error)
            raise FailedError(f"Cannot reach {origin}: {_words(error)}.", done=False, final=untrusted) from error
        except httpx2.TransportError as error:
            raise FailedError(f"{origin} broke off without an answer: {_words(error)}.", done=True) from error
        self.answered = True
        return response

    def failure(self, response: httpx2.Response) -> FailedError | None:
        """What an answer's status says of the request; None where the answer is the MCP server's to give."""
        status, headers = response.status_code, response.headers
        if status == 429:
            found = self._finding(response) or "429: the server takes no more calls at the moment."
            return FailedError(str(found), done=False, status=status, wait=_retry_after(headers))
        found = self._finding(response)
        if found is None:
            return None
        # The service was reached by these, and what it had done by then nobody knows.
        done = status >= 500
        return FailedError(
            str(found), done=done, final=status not in {502, 503}, status=status, wait=_retry_after(headers)
        )

    def _finding(self, response: httpx2.Response) -> Finding | None:
        return diagnose(response.status_code, response.headers, self.target, self.auth.tokens.caller)

    async def _pool_after_sleep(self) -> _Pool:
        """The pool; a new one after the machine was asleep, when connections are dead without saying so."""
        drift = self._drift()
        if drift - self._asleep_until_now > SLEPT_SECONDS:
            old, self._pool = self._pool, self._new_pool()
            old.retired = True
            if old.users == 0:
                await old.client.aclose()
        self._asleep_until_now = drift
        return self._pool

    def _new_pool(self) -> _Pool:
        proxied = not self.target.on_this_machine and bool(getproxies())
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=IDLE_SECONDS)
        transport = self._transport
        if transport is None and not proxied:  # httpx2 looks for a company's proxy only where it makes the transport
            transport = httpx2.AsyncHTTPTransport(limits=limits, socket_options=_keep_alive())
        return _Pool(
            httpx2.AsyncClient(
                transport=transport,
                auth=self.auth,
                # A tool may be silent for as long as the service lets it; the system notices a dead peer.
                timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
                limits=limits,
                trust_env=proxied,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            )
        )


def _keep_alive() -> list[tuple[int, int, int]]:
    """Options with which the system ends a connection to a peer that is gone."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    for name, value in (
        ("TCP_KEEPIDLE", DEAD_SECONDS // 2),
        ("TCP_KEEPALIVE", DEAD_SECONDS // 2),  # the name on macOS
        ("TCP_KEEPINTVL", DEAD_SECONDS // 6),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", DEAD_SECONDS * 1000),
    ):
        number = getattr(socket, name, None)
        if isinstance(number, int):
            options.append((socket.IPPROTO_TCP, number, value))
    return options


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After; 0 where there is none, or it is a date."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), LONGEST_WAIT_SECONDS) if text.isascii() and text.isdecimal() else 0.0


def _words(error: BaseException) -> str:
    return connection_reason(error).rstrip(".")


def _is_certificate(error: BaseException) -> bool:
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, ssl.SSLCertVerificationError):
            return True
        below = below.__cause__ or below.__context__
    return False
