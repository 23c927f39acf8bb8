"""The way from a relay to a private service: kept connections, and what a failure says of the request.

What matters after a failure is whether the service may have carried the request out: `FailedError.done` says so.
Retrying is the caller's decision.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Final

import httpx2

from mcpfleet import sse
from mcpfleet.auth import IdTokenAuth
from mcpfleet.bounds import Bound, TooLargeError
from mcpfleet.diagnosis import Finding, diagnose, is_front_ends
from mcpfleet.errors import AuthError, TokenEndpointUnavailableError
from mcpfleet.inert import inert
from mcpfleet.net import client_for, connection_reason, is_certificate
from mcpfleet.target import Target

SLEPT_SECONDS = 5.0
"""The clock on the wall ran ahead of the monotonic one by this: the machine was asleep."""
LONGEST_WAIT_SECONDS = 30.0
"""The most that a service's Retry-After is believed."""

CUT: Final = httpx2.TransportError
"""How an answer that breaks off is said."""
_SHOWN: Final = 300
"""Characters of why: what is no HTTP is quoted."""


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


async def events(answer: httpx2.Response) -> AsyncGenerator[sse.Event]:
    """The events of an answer that is a stream. Raises one of `CUT` where it breaks off."""
    parser = sse.Parser()
    async for chunk in answer.aiter_bytes():
        for event in parser.feed(chunk):
            yield event


def is_stream(response: httpx2.Response) -> bool:
    """Whether an answer is a stream of events."""
    return response.headers.get("content-type", "").lower().startswith("text/event-stream")


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
        self._url = httpx2.URL(target.mcp_url)
        self._transport = transport
        self._drift = lambda: wall() - clock()
        self._asleep_until_now = self._drift()
        self._way = self._new_way()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._way.retire()

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncGenerator[httpx2.Response]:
        """Send one request and hand out its answer, to be read within the block.

        Raises:
            FailedError: No answer came, or it broke off while it was read.
        """
        if not all(value.isascii() and value.isprintable() for value in headers.values()):
            raise _unsendable()
        drift = self._drift()
        if drift - self._asleep_until_now > SLEPT_SECONDS:  # connections from before are dead without saying so
            old, self._way = self._way, self._new_way()
            await old.retire()
        self._asleep_until_now = drift
        began = False
        try:
            request = httpx2.Request(method, self._url, headers=headers, content=content)
            async with self._way.send(request) as answer:
                began = self.answered = True
                yield answer
        except CUT as error:
            raise self._broken(error, began=began) from error
        except TokenEndpointUnavailableError as error:
            raise FailedError(str(error), done=False) from error
        except AuthError as error:
            raise FailedError(str(error), done=False, final=True) from error

    def _broken(self, error: httpx2.TransportError, *, began: bool) -> FailedError:
        origin = self.target.origin
        if isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)):
            text = f"Cannot reach {origin}: {_words(error)}."
            return FailedError(text, done=False, final=is_certificate(error))
        if isinstance(error, httpx2.LocalProtocolError):
            return _unsendable()
        what = f"The answer of {origin} broke off" if began else f"{origin} broke off without an answer"
        return FailedError(f"{what}: {_words(error)}.", done=True, final=isinstance(error, TooLargeError))

    def failure(self, response: httpx2.Response) -> FailedError | None:
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

    def _finding(self, response: httpx2.Response) -> Finding | None:
        return diagnose(response.status_code, response.headers, self.target, self.auth.tokens.caller)

    def _new_way(self) -> _Way:
        return _Way(client_for(self.auth, self.target.on_this_machine, self._transport, answers=Bound()))


class _Way:
    """Kept connections, which are let go one by one when others have taken their place."""

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
    """Seconds of a Retry-After; 0 where there is none, or it is a date."""
    text = headers.get("retry-after", "").strip()
    return min(float(text), LONGEST_WAIT_SECONDS) if text.isascii() and text.isdecimal() else 0.0


def _words(error: BaseException) -> str:
    return inert(connection_reason(error).rstrip("."), _SHOWN)


def _unsendable() -> FailedError:
    text = "A header of this request cannot be sent: it holds control characters, or others that HTTP does not take."
    return FailedError(text, done=False, final=True)
