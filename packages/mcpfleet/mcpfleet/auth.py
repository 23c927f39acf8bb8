"""Google ID tokens for httpx2: `httpx2.AsyncClient(auth=IdTokenAuth("https://echo-….run.app"))`.

The token goes into `X-Serverless-Authorization`, which Cloud Run checks first and which leaves the
application's own `Authorization` alone (docs/google-apis.md 5.1). One token is kept for each audience, fetched
anew five minutes before it expires, beside the requests: while a token is valid, nobody waits for the next.

A request whose token the service refuses, as one that expired on the way, goes again once with a new one, if its
body is held in memory; a body that is a stream cannot be sent twice.

A token is for the origin that is called. httpx2 takes `Authorization` off a request that is redirected to another one,
and no other header, so here the token is on no redirected request; within the origin one is signed when it is refused.

Not here: which identity is used (`mcpfleet.token_sources`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future
from typing import Final

import httpx2

from mcpfleet.diagnosis import CallerIdentity, is_the_servers
from mcpfleet.errors import AuthError, CredentialsRefusedError
from mcpfleet.token_sources import DefaultSource, TokenSource
from mcpfleet.tokens import IdToken

SERVERLESS_AUTHORIZATION: Final = "X-Serverless-Authorization"
REFRESH_EARLY_SECONDS = 300.0
EXPIRY_LEEWAY_SECONDS = 10.0
"""A token this near to its end may expire on the way, so it counts as expired."""
SKEWED_SECONDS = 300.0
"""How long a token is held that, by a clock that is ahead, has expired on arrival: Google's have as much left."""
RETRY_SECONDS = 10.0
"""While a valid token is held, a failed refresh is tried again after this."""
MISTRUST_SECONDS = 60.0
"""A token that the service refuses is replaced only at this age: a wrong audience costs no storm of fetches."""

_log = logging.getLogger("mcpfleet.auth")

Clock = Callable[[], float]


def _in_daemon_thread(work: Callable[[], None]) -> None:
    # Not a pool: one short thread an hour, and a hanging token endpoint must not hold up the process's exit.
    threading.Thread(target=work, name="mcpfleet-id-token", daemon=True).start()


class IdTokens:
    """The current ID token of one identity for one audience. Safe to share by threads and event loops.

    Args:
        source: The identity.
        audience: What the token is for: the service's URL or one of its custom audiences.
        clock: Unix time in seconds.
        start: Runs a blocking refresh beside the caller.
    """

    def __init__(
        self,
        source: TokenSource,
        audience: str,
        *,
        clock: Clock = time.time,
        start: Callable[[Callable[[], None]], None] = _in_daemon_thread,
    ) -> None:
        self.source = source
        self.audience = audience
        self._clock = clock
        self._start = start
        self._lock = threading.Lock()  # held for assignments only, never across a fetch
        self._token: IdToken | None = None
        self._expires_at = 0.0  # by this machine's clock, which may be wrong
        self._fetched_at = 0.0
        self._retry_at = 0.0
        self._flight: Future[IdToken] | None = None

    @property
    def member(self) -> str:
        """Who the token held names, as IAM writes it (`user:ada@acme.dev`); '' while that is not known."""
        return self._token.member if self._token else ""

    @property
    def identity(self) -> str:
        """The member, or else the source, for a person to read."""
        return self.member or self.source.name

    @property
    def caller(self) -> CallerIdentity:
        """Who calls, for a diagnosis."""
        return CallerIdentity(self.identity, self.member, self.audience)

    async def aget(self) -> IdToken:
        """A valid token, without blocking the event loop.

        Raises:
            AuthError: None is held and none can be had; the message says what to do.
        """
        token = self._token_or_flight()
        if isinstance(token, IdToken):
            return token
        return await asyncio.wrap_future(token)

    def get(self) -> IdToken:
        """A valid token, blocking. Raises as `aget` does."""
        token = self._token_or_flight()
        return token if isinstance(token, IdToken) else token.result()

    def refused(self, token: IdToken) -> bool:
        """The service did not accept this token, though by our clock it is valid: fetch another next time.

        Returns:
            Whether another is to be had, so that the request, which the service did not look at, can go again.
        """
        with self._lock:
            now = self._clock()
            if self._token is token and now - self._fetched_at >= MISTRUST_SECONDS:
                self._token = None
            return self._token is not token or now >= self._expires_at - EXPIRY_LEEWAY_SECONDS

    def _token_or_flight(self) -> IdToken | Future[IdToken]:
        """The token held if it is still valid, or else the refresh to wait for; starts one when it is time."""
        with self._lock:
            now, token = self._clock(), self._token
            valid = token is not None and now < self._expires_at - EXPIRY_LEEWAY_SECONDS
            due = not valid or (now >= self._expires_at - REFRESH_EARLY_SECONDS and now >= self._retry_at)
            flight, mine = self._flight, due and self._flight is None
            if mine:
                flight = self._flight = Future[IdToken]()
                flight.set_running_or_notify_cancel()  # it is shared: no caller's cancellation may end it
        if mine and flight is not None:
            self._launch(flight)
        if valid and token is not None:
            return token
        assert flight is not None  # noqa: S101 - not valid, so due, so one is under way
        return flight

    def _launch(self, flight: Future[IdToken]) -> None:
        try:
            self._start(lambda: self._refresh(flight))
        except RuntimeError as error:  # no thread to be had: without this, later callers would wait forever
            self._land(flight, error)

    def _refresh(self, flight: Future[IdToken]) -> None:
        try:
            token = self.source.fetch(self.audience)
            if self._clock() >= token.expires_at - EXPIRY_LEEWAY_SECONDS and not self.source.mints:
                raise CredentialsRefusedError(
                    f"The token from the {self.source.name} has already expired. "
                    "Renew it there, and check this machine's clock."
                )
        except BaseException as error:
            self._land(flight, error)
        else:
            self._land(flight, token)

    def _land(self, flight: Future[IdToken], outcome: IdToken | BaseException) -> None:
        with self._lock:
            self._flight = None
            now = self._clock()
            self._retry_at = now + RETRY_SECONDS
            if isinstance(outcome, IdToken):
                self._token, self._fetched_at, self._expires_at = outcome, now, _expiry(outcome, now)
            left = self._expires_at - now if self._token else 0.0
        if isinstance(outcome, IdToken):
            flight.set_result(outcome)
            return
        if left > 0:
            reason = str(outcome) if isinstance(outcome, AuthError) else repr(outcome)
            _log.warning("ID token not renewed (the one held is good for %d s more): %s", left, reason)
        flight.set_exception(outcome)


def _expiry(token: IdToken, now: float) -> float:
    """When a token that has just come expires, by a clock that may be wrong."""
    if now >= token.expires_at - EXPIRY_LEEWAY_SECONDS:
        _log.warning("This machine's clock is ahead of the token's issuer by more than a token's life. Set it.")
        return now + SKEWED_SECONDS
    behind = max(0.0, (token.issued_at or now) - now)  # nobody issues a token in the future
    return token.expires_at - behind


class _OnlyHere(httpx2.Headers):
    """A request's headers, one of which no copy of them has: a redirected request is made with a copy."""

    def __init__(self, headers: httpx2.Headers, name: str, value: str) -> None:
        rest = httpx2.Headers(headers)
        rest.pop(name, None)
        super().__init__(rest)
        self._here = name, value

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """What goes out."""
        name, value = self._here
        return [*super().raw, (name.encode("ascii"), value.encode("ascii"))]

    def __getitem__(self, key: str) -> str:
        return self._here[1] if self._is_here(key) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return self._is_here(key) or super().__contains__(key)

    def get_list(self, key: str, split_commas: bool = False) -> list[str]:
        return [self._here[1]] if self._is_here(key) else super().get_list(key, split_commas)

    def _is_here(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() == self._here[0].lower()


class IdTokenAuth(httpx2.Auth):
    """Puts an ID token on every request of an httpx2 client, async or not.

    Args:
        audience: What the token is for: the service's URL or one of its custom audiences.
        source: The identity; by default the one google-auth would find, looked for at the first request.
        header: `X-Serverless-Authorization` or `Authorization`: Identity-Aware Proxy reads the latter only, and the
            audience is an OAuth client that it takes. A value the request already has is replaced.
        clock: Unix time in seconds.

    A request raises `mcpfleet.errors.AuthError` when no token can be had.
    """

    def __init__(
        self,
        audience: str,
        source: TokenSource | None = None,
        *,
        header: str = SERVERLESS_AUTHORIZATION,
        clock: Clock = time.time,
        tokens: IdTokens | None = None,
    ) -> None:
        self.header = header
        self.tokens = tokens or IdTokens(source or DefaultSource(), audience, clock=clock)

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Called by `httpx2.AsyncClient`."""
        in_memory = isinstance(request.stream, httpx2.ByteStream)
        again: httpx2.Request | None = request
        renewed = False
        while again is not None:
            token = await self.tokens.aget()
            response = yield self._signed(again, token)
            again, renewed = self._again(request, response, token, renewed=renewed)
            again = again if in_memory else None

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Called by `httpx2.Client`."""
        in_memory = isinstance(request.stream, httpx2.ByteStream)
        again: httpx2.Request | None = request
        renewed = False
        while again is not None:
            token = self.tokens.get()
            response = yield self._signed(again, token)
            again, renewed = self._again(request, response, token, renewed=renewed)
            again = again if in_memory else None

    def _signed(self, request: httpx2.Request, token: IdToken) -> httpx2.Request:
        request.headers = _OnlyHere(request.headers, self.header, f"Bearer {token.value}")
        return request

    def _again(
        self, request: httpx2.Request, response: httpx2.Response, token: IdToken, *, renewed: bool
    ) -> tuple[httpx2.Request | None, bool]:
        """What is to be sent once more, with a token; and whether a refused token has been replaced by then."""
        last = response.request
        if isinstance(last.headers, _OnlyHere):
            outdated = not renewed and self._is_outdated(response, token)
            return (last if outdated else None), renewed or outdated
        # A redirect led here without a token: the front end refused, so the service has not seen the request.
        refused = response.status_code in (401, 403) and not is_the_servers(response.headers)
        return (last if refused and last.url.origin == request.url.origin else None), renewed

    def _is_outdated(self, response: httpx2.Response, token: IdToken) -> bool:
        """Whether the service refused a token that can be replaced.

        Cloud Run's front end refuses before the service has seen the request, so nothing is done twice.
        """
        # The front end says this of an expired or mis-audienced token; an application's own 401 may
        # say it too, and then a fetch a minute is all it costs.
        challenge = response.headers.get("www-authenticate", "")
        return response.status_code == 401 and "invalid_token" in challenge and self.tokens.refused(token)
