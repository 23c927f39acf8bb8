"""Google ID tokens for httpx2: `httpx2.AsyncClient(auth=IdTokenAuth("https://echo-….run.app"))`.

The token goes into `X-Serverless-Authorization`, which Cloud Run checks first and which leaves the
application's own `Authorization` alone (docs/google-apis.md 5.1). One token is cached for each audience. It is
refreshed in a thread five minutes before it expires: while a token is valid, no request waits for the next.

If the service refuses the token of a request, for example because it has just expired, the request is sent once more
with a new token. This needs a body in memory: a streamed body cannot be sent twice.

A token is for the origin that is called. On a redirect to another origin, httpx2 removes `Authorization` and no other
header, so this module leaves the token out of every redirected request. It adds the token again only if the redirect
stays within the origin and the service refuses the request.

Not here: the choice of the identity (`mcpfleet.token_sources`).
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

from mcpfleet.diagnosis import CallerIdentity, is_mcp_content
from mcpfleet.errors import AuthError, CredentialsRefusedError
from mcpfleet.token_sources import DefaultSource, TokenSource
from mcpfleet.tokens import IdToken

SERVERLESS_AUTHORIZATION: Final = "X-Serverless-Authorization"
REFRESH_EARLY_SECONDS = 300.0
EXPIRY_LEEWAY_SECONDS = 10.0
"""A token that expires this soon may expire before it arrives, so it counts as expired."""
SKEWED_CLOCK_LIFETIME_SECONDS = 300.0
"""The lifetime of a new token that has already expired by this machine's clock, which must be ahead."""
RETRY_SECONDS = 10.0
"""The time until a failed refresh is tried again, while the current token is still valid."""
REPLACE_AFTER_SECONDS = 60.0
"""The minimum age of a refused token to be replaced: it limits the number of fetches if the audience is wrong."""

_log = logging.getLogger("mcpfleet.auth")

Clock = Callable[[], float]


def _in_daemon_thread(work: Callable[[], None]) -> None:
    # Not a pool: one short thread an hour, and a token endpoint that hangs must not delay the process's exit.
    threading.Thread(target=work, name="mcpfleet-id-token", daemon=True).start()


class IdTokens:
    """The current ID token of one identity for one audience. Threads and event loops can share it.

    Args:
        source: The identity.
        audience: The service's URL or one of its custom audiences.
        clock: Unix time in seconds.
        start: Starts a blocking refresh in the background.
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
        self._lock = threading.Lock()  # for assignments only, never during a fetch
        self._token: IdToken | None = None
        self._expires_at = 0.0  # by this machine's clock, which may be wrong
        self._fetched_at = 0.0
        self._retry_at = 0.0
        self._pending: Future[IdToken] | None = None

    @property
    def member(self) -> str:
        """The IAM member of the current token (`user:ada@acme.dev`); '' if it is not known yet."""
        return self._token.member if self._token else ""

    @property
    def identity(self) -> str:
        """The member, or else the source, for messages."""
        return self.member or self.source.name

    @property
    def caller(self) -> CallerIdentity:
        """The identity, for a diagnosis."""
        return CallerIdentity(self.identity, self.member, self.audience)

    async def aget(self) -> IdToken:
        """Get a valid token without blocking the event loop.

        Raises:
            AuthError: There is no valid token, and the source gives none; the message has the next step.
        """
        token = self._token_or_pending()
        if isinstance(token, IdToken):
            return token
        return await asyncio.wrap_future(token)

    def get(self) -> IdToken:
        """Get a valid token, blocking. Raises as `aget` does."""
        token = self._token_or_pending()
        return token if isinstance(token, IdToken) else token.result()

    def invalidate(self, token: IdToken) -> bool:
        """Mark a token as refused by the service, although it is valid by this machine's clock.

        Returns:
            Whether the next call gets another token, so that the refused request can be sent again.
        """
        with self._lock:
            now = self._clock()
            if self._token is token and now - self._fetched_at >= REPLACE_AFTER_SECONDS:
                self._token = None
            return self._token is not token or now >= self._expires_at - EXPIRY_LEEWAY_SECONDS

    def _token_or_pending(self) -> IdToken | Future[IdToken]:
        """The current token if it is valid, or else the refresh to wait for. Starts a refresh when it is due."""
        with self._lock:
            now, token = self._clock(), self._token
            is_valid = token is not None and now < self._expires_at - EXPIRY_LEEWAY_SECONDS
            is_due = not is_valid or (now >= self._expires_at - REFRESH_EARLY_SECONDS and now >= self._retry_at)
            pending, is_new = self._pending, is_due and self._pending is None
            if is_new:
                pending = self._pending = Future[IdToken]()
                pending.set_running_or_notify_cancel()  # callers share it: none of them may cancel it
        if is_new and pending is not None:
            self._start_refresh(pending)
        if is_valid and token is not None:
            return token
        assert pending is not None  # noqa: S101 - without a valid token a refresh is due, so one is pending
        return pending

    def _start_refresh(self, pending: Future[IdToken]) -> None:
        try:
            self._start(lambda: self._refresh(pending))
        except RuntimeError as error:  # no thread could be started: without this, later callers would wait forever
            self._finish_refresh(pending, error)

    def _refresh(self, pending: Future[IdToken]) -> None:
        try:
            token = self.source.fetch(self.audience)
            if self._clock() >= token.expires_at - EXPIRY_LEEWAY_SECONDS and not self.source.issues_fresh_tokens:
                raise CredentialsRefusedError(
                    f"The token from the {self.source.name} has already expired. "
                    "Renew it there, and check this machine's clock."
                )
        except BaseException as error:
            self._finish_refresh(pending, error)
        else:
            self._finish_refresh(pending, token)

    def _finish_refresh(self, pending: Future[IdToken], outcome: IdToken | BaseException) -> None:
        with self._lock:
            self._pending = None
            now = self._clock()
            self._retry_at = now + RETRY_SECONDS
            if isinstance(outcome, IdToken):
                self._token, self._fetched_at, self._expires_at = outcome, now, _expiry(outcome, now)
            remaining = self._expires_at - now if self._token else 0.0
        if isinstance(outcome, IdToken):
            pending.set_result(outcome)
            return
        if remaining > 0:
            reason = str(outcome) if isinstance(outcome, AuthError) else repr(outcome)
            _log.warning("ID token not refreshed (the current one is valid for %d s): %s", remaining, reason)
        pending.set_exception(outcome)


def _expiry(token: IdToken, now: float) -> float:
    """The expiry of a new token by this machine's clock, which may be wrong."""
    if now >= token.expires_at - EXPIRY_LEEWAY_SECONDS:
        _log.warning(
            "This machine's clock is ahead of the token's issuer by more than a token's lifetime. Set the clock."
        )
        return now + SKEWED_CLOCK_LIFETIME_SECONDS
    behind = max(0.0, (token.issued_at or now) - now)  # an issuer does not issue a token in the future
    return token.expires_at - behind


class _SignedHeaders(httpx2.Headers):
    """A request's headers with the token. Copies, which httpx2 makes for redirected requests, leave the token out."""

    def __init__(self, headers: httpx2.Headers, name: str, value: str) -> None:
        rest = httpx2.Headers(headers)
        rest.pop(name, None)
        super().__init__(rest)
        self._token_header = name, value

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        """The headers as they are sent, with the token."""
        name, value = self._token_header
        return [*super().raw, (name.encode("ascii"), value.encode("ascii"))]

    def __getitem__(self, key: str) -> str:
        return self._token_header[1] if self._is_token_header(key) else super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        return self._is_token_header(key) or super().__contains__(key)

    def get_list(self, key: str, split_commas: bool = False) -> list[str]:
        return [self._token_header[1]] if self._is_token_header(key) else super().get_list(key, split_commas)

    def _is_token_header(self, key: object) -> bool:
        return isinstance(key, str) and key.lower() == self._token_header[0].lower()


class IdTokenAuth(httpx2.Auth):
    """Adds an ID token to every request of an httpx2 client, async or not.

    Args:
        audience: The service's URL or one of its custom audiences.
        source: The identity; by default the one that google-auth finds, at the first request.
        header: `X-Serverless-Authorization`, or `Authorization` for Identity-Aware Proxy, where the audience is an
            OAuth client that it accepts. The token replaces a value of the request.
        clock: Unix time in seconds.
        tokens: The tokens to use, instead of new ones for *source* and *audience*.

    A request raises `mcpfleet.errors.AuthError` if the source gives no token.
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
        outgoing: httpx2.Request | None = request
        renewed = False
        while outgoing is not None:
            token = await self.tokens.aget()
            response = yield self._sign(outgoing, token)
            outgoing, renewed = self._next_request(request, response, token, renewed=renewed)
            outgoing = outgoing if in_memory else None

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        """Called by `httpx2.Client`."""
        in_memory = isinstance(request.stream, httpx2.ByteStream)
        outgoing: httpx2.Request | None = request
        renewed = False
        while outgoing is not None:
            token = self.tokens.get()
            response = yield self._sign(outgoing, token)
            outgoing, renewed = self._next_request(request, response, token, renewed=renewed)
            outgoing = outgoing if in_memory else None

    def _sign(self, request: httpx2.Request, token: IdToken) -> httpx2.Request:
        request.headers = _SignedHeaders(request.headers, self.header, f"Bearer {token.value}")
        return request

    def _next_request(
        self, request: httpx2.Request, response: httpx2.Response, token: IdToken, *, renewed: bool
    ) -> tuple[httpx2.Request | None, bool]:
        """The request to send again with a token, or None; and whether a refused token has been replaced."""
        last = response.request
        if isinstance(last.headers, _SignedHeaders):
            is_outdated = not renewed and self._is_outdated(response, token)
            return (last if is_outdated else None), renewed or is_outdated
        # A redirect went here without a token. The front end refused it, so the service has not seen the request.
        is_refused = response.status_code in (401, 403) and not is_mcp_content(response.headers)
        return (last if is_refused and last.url.origin == request.url.origin else None), renewed

    def _is_outdated(self, response: httpx2.Response, token: IdToken) -> bool:
        """Return whether the service refused a token that can be replaced.

        Cloud Run's front end refuses before the service has seen the request, so the request does not run twice.
        """
        # The front end sends this for an expired token or a wrong audience. An application's own 401 may have
        # it, too; then the cost is one fetch a minute.
        challenge = response.headers.get("www-authenticate", "")
        return response.status_code == 401 and "invalid_token" in challenge and self.tokens.invalidate(token)
