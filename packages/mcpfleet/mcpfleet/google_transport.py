"""An HTTP transport for google-auth, over httpx2, with limits for the size and the time of responses.

A credentials file names its own token endpoint, so responses are untrusted. A response has no more bytes than a
server's message (`MCPFLEET_MAX_ANSWER`), is uncompressed text, and is complete within the timeout. Redirects are not
followed: a 307 would send the credentials, which are in the body, to another host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx2

from mcpfleet.bounds import MAX_CHECK_BRACKETS, UNCOMPRESSED, ResponseLimit
from mcpfleet.net import is_loopback, parse_host, ssl_context

ENDPOINT_SECONDS: Final = 15.0


class TransportResponse:
    """A response in the form of google-auth (`google.auth.transport.Response`).

    Attributes:
        status: The HTTP status.
        headers: The headers, by case-insensitive name.
        data: The body, in UTF-8.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.data = response.content


GoogleRequest = Callable[..., Any]
"""A `google.auth.transport.Request`: called with url, method, body, headers, timeout (seconds)."""


def request_for(url: str, transport: httpx2.AsyncBaseTransport | None = None) -> GoogleRequest:
    """Create a transport for google-auth. For this machine's own addresses, it ignores HTTP proxies.

    Args:
        url: The endpoint.
        transport: The HTTP transport; the network by default.
    """
    trust_env = not is_loopback(parse_host(url))

    def request(
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> TransportResponse:
        # Imported here, because google-auth is slow to import and `mcpfleet --help` does not need it.
        from google.auth import exceptions

        seconds = timeout or ENDPOINT_SECONDS

        async def send() -> TransportResponse:
            async with (
                asyncio.timeout(seconds),
                httpx2.AsyncClient(
                    transport=transport,
                    timeout=seconds,
                    verify=ssl_context(trust_env),
                    trust_env=trust_env,
                    headers=UNCOMPRESSED,
                    event_hooks={"response": [ResponseLimit(brackets=MAX_CHECK_BRACKETS, streams=False)]},
                ) as http,
            ):
                return TransportResponse(await http.request(method, url, content=body, headers=headers))

        try:
            answer = _run_blocking(send())
            answer.data.decode("utf-8")
        except TimeoutError as error:
            raise exceptions.TransportError(f"its response was not complete after {seconds:g} s") from error
        except UnicodeDecodeError as error:
            raise exceptions.TransportError("its response is not text") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise exceptions.TransportError(error) from error
        return answer

    return request


def _run_blocking(coroutine: Coroutine[Any, Any, TransportResponse]) -> TransportResponse:
    """Run a coroutine to its end, blocking. This also works inside an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
