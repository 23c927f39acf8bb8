"""The way from a relay to a private service: kept connections, and what a failure says of the request.

What matters after a failure is whether the service may have carried the request out: `FailedError.done` says so.
Retrying is the caller's decision.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Protocol
from urllib.request import getproxies

import httpx2

from mcpfleet import sse, wire
from mcpfleet.auth import IdTokenAuth
from mcpfleet.bounds import AS_IT_IS, Bound, TooLargeError
from mcpfleet.diagnosis import Finding, diagnose, is_front_ends
from mcpfleet.errors import AuthError, TokenEndpointUnavailableError
from mcpfleet.net import connection_reason
from mcpfleet.target import Target

SLEPT_SECONDS = 5.0
"""The clock on the wall ran ahead of the monotonic one by this: the machine was asleep."""
LONGEST_WAIT_SECONDS = 30.0
"""The most that a service's Retry-After is believed."""

CUT = (httpx2.TransportError, wire.BrokenError)
"""How an answer that breaks off is said."""


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


class Way(Protocol):
    """One way to send requests, with the connections that it keeps."""

    def send(
        self, method: str, headers: Mapping[str, str], content: bytes | None
    ) -> contextlib.AbstractAsyncContextManager[Answer]:
        """Send one request and hand out its answer."""
        ...

    async def aclose(self) -> None:
        """End the connections that nobody uses, and the others when they are not used any more."""
        ...


class Answer(Protocol):
    """What a way answers: `httpx2.Response` has more than this."""

    @property
    def status_code(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """By name in lower case."""
        ...

    def aiter_bytes(self) -> AsyncIterator[bytes]:
        """The body's pieces."""
        ...

    async def aread(self) -> bytes:
        """The whole body."""
        ...


async def events(answer: Answer) -> AsyncGenerator[sse.Event]:
    """The events of an answer that is a stream. Raises one of `CUT` where it breaks off."""
    parser = sse.Parser()
    async for chunk in answer.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


class Upstream:
    """A private service, asked with one identity over kept connections.

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
        self._way = self._new_way()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._way.aclose()

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncGenerator[Answer]:
        """Send one request and hand out its answer, to be read within the block.

        Raises:
            FailedError: No answer came, or it broke off while it was read.
        """
        drift = self._drift()
        if drift - self._asleep_until_now > SLEPT_SECONDS:  # connections from before are dead without saying so
            old, self._way = self._way, self._new_way()
            await old.aclose()
        self._asleep_until_now = drift
        began = False
        try:
            async with self._way.send(method, headers, content) as answer:
                began = self.answered = True
                yield answer
        except CUT as error:
            raise self._broken(error, began=began) from error
        except TokenEndpointUnavailableError as error:
            raise FailedError(str(error), done=False) from error
        except AuthError as error:
            raise FailedError(str(error), done=False, final=True) from error
        except (OSError, TimeoutError) as error:
            raise self._unreachable(error) from error

    def _broken(self, error: Exception, *, began: bool) -> FailedError:
        origin = self.target.origin
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)):
            return self._unreachable(error)
        what = f"The answer of {origin} broke off" if began else f"{origin} broke off without an answer"
        return FailedError(f"{what}: {_words(error)}.", done=True, final=isinstance(error, TooLargeError))

    def _unreachable(self, error: Exception) -> FailedError:
        text = f"Cannot reach {self.target.origin}: {_words(error)}."
        return FailedError(text, done=False, final=wire.is_certificate(error))

    def failure(self, response: Answer) -> FailedError | None:
        """What an answer's status says of the request; None where the answer is the MCP server's to give."""
        status, headers = response.status_code, response.headers
        if status == 429:
            found = self._finding(response) or "429: the server takes no more calls at the moment."
            # Cloud Run's own says that no instance had it; a server may say the same after half of the work.
            done = not is_front_ends(status, headers)
            return FailedError(str(found), done=done, status=status, wait=_retry_after(headers))
        found = self._finding(response)
        if found is None:
            return None
        # The service was reached by these, and what it had done by then nobody knows.
        done = status >= 500
        return FailedError(
            str(found), done=done, final=status not in {502, 503}, status=status, wait=_retry_after(headers)
        )

    def _finding(self, response: Answer) -> Finding | None:
        return diagnose(response.status_code, response.headers, self.target, self.auth.tokens.caller)

    def _new_way(self) -> Way:
        proxied = not self.target.on_this_machine and bool(getproxies())
        if self._transport is not None or proxied:
            return _Httpx(self.target, self.auth, self._transport)
        return _Wire(self.target, self.auth)


class _Wire:
    """Straight to the service."""

    def __init__(self, target: Target, auth: IdTokenAuth) -> None:
        self._wire = wire.Wire(httpx2.URL(target.origin))
        self._auth = auth
        self._target = target
        self._path = httpx2.URL(target.mcp_url).raw_path.decode("ascii")

    @contextlib.asynccontextmanager
    async def send(self, method: str, headers: Mapping[str, str], content: bytes | None) -> AsyncGenerator[Answer]:
        """Send, and once more with another token where the first was refused before the service saw the request."""
        body = content or b""
        for attempt in range(2):
            token = await self._auth.tokens.aget()
            async with self._wire.send(self._head(method, headers, token.value, len(body)), body) as reply:
                if attempt == 0 and self._auth.is_outdated(reply.status_code, reply.headers, token):
                    await reply.aread()
                    continue
                yield reply
                return

    def _head(self, method: str, headers: Mapping[str, str], token: str, length: int) -> bytes:
        lines = [
            f"{method} {self._path} HTTP/1.1",
            f"host: {self._target.host}",
            f"{self._auth.header}: Bearer {token}",
        ]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if method == "POST":
            lines.append(f"content-length: {length}")
        if any(not line.isprintable() for line in lines):  # a line break would begin a header of somebody else's
            raise FailedError(
                "A header of this request cannot be sent: it holds control characters.", done=False, final=True
            )
        return "\r\n".join([*lines, "", ""]).encode()

    async def aclose(self) -> None:
        """End the connections."""
        self._wire.close()


class _Httpx:
    """Through whatever httpx2 finds on the way: a company's proxy, or what a test gives."""

    def __init__(self, target: Target, auth: IdTokenAuth, transport: httpx2.AsyncBaseTransport | None) -> None:
        self._url = httpx2.URL(target.mcp_url)
        self._users = 0
        self._retired = False
        self._client = httpx2.AsyncClient(
            transport=transport,
            auth=auth,
            # A tool may be silent for as long as the service lets it.
            timeout=httpx2.Timeout(None, connect=wire.CONNECT_SECONDS),
            limits=httpx2.Limits(max_connections=None, keepalive_expiry=wire.IDLE_SECONDS),
            trust_env=transport is None,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            headers=AS_IT_IS,
            event_hooks={"response": [Bound()]},
        )

    @contextlib.asynccontextmanager
    async def send(self, method: str, headers: Mapping[str, str], content: bytes | None) -> AsyncGenerator[Answer]:
        """Send."""
        self._users += 1
        try:
            request = httpx2.Request(method, self._url, headers=headers, content=content)
            response = await self._client.send(request, stream=True)
            try:
                yield response
            finally:
                await response.aclose()
        finally:
            self._users -= 1
            if self._retired and self._users == 0:
                await self._client.aclose()

    async def aclose(self) -> None:
        """End the connections; those in use when they are not used any more."""
        self._retired = True
        if self._users == 0:
            await self._client.aclose()


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After; 0 where there is none, or it is a date."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), LONGEST_WAIT_SECONDS) if text.isascii() and text.isdecimal() else 0.0


def _words(error: BaseException) -> str:
    return connection_reason(error).rstrip(".")
