"""How Google's endpoints are asked for tokens: google-auth's transport over httpx2, bounded in bytes and in time.

A login file names its own token endpoint, so what answers may be anybody's. An answer has no more bytes than one of a
server (`MCPFLEET_MAX_ANSWER`), is not compressed, is text, and is whole in the seconds that it may take however it
drips; no redirect is followed, for a 307 would have the login, which is in the body, sent to another host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import httpx2

from mcpfleet.bounds import AS_IT_IS, FEW_BRACKETS, Bound
from mcpfleet.net import host_of, is_loopback, trusted

ENDPOINT_SECONDS: Final = 15.0


class Answer:
    """What an endpoint answered, as google-auth reads it (`google.auth.transport.Response`).

    Attributes:
        status: The HTTP status.
        headers: By name in any case.
        data: The body, which is UTF-8.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.data = response.content


GoogleRequest = Callable[..., Any]
"""A `google.auth.transport.Request`: called with url, method, body, headers, timeout (seconds)."""


def request_to(url: str, transport: httpx2.AsyncBaseTransport | None = None) -> GoogleRequest:
    """google-auth's transport; this machine's own addresses go past any HTTP proxy.

    Args:
        url: Whom it is for.
        transport: What carries the requests; the network where it is not given.
    """
    trust_env = not is_loopback(host_of(url))

    def request(
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_options: Any,
    ) -> Answer:
        # Imported here, as google-auth is wherever it is used: `mcpfleet --help` needs none of it.
        from google.auth import exceptions

        seconds = timeout or ENDPOINT_SECONDS

        async def asked() -> Answer:
            async with (
                asyncio.timeout(seconds),
                httpx2.AsyncClient(
                    transport=transport,
                    timeout=seconds,
                    verify=trusted(trust_env),
                    trust_env=trust_env,
                    headers=AS_IT_IS,
                    event_hooks={"response": [Bound(brackets=FEW_BRACKETS, streams=False)]},
                ) as http,
            ):
                return Answer(await http.request(method, url, content=body, headers=headers))

        try:
            answer = _waited_for(asked())
            answer.data.decode("utf-8")
        except TimeoutError as error:
            raise exceptions.TransportError(f"its answer was not whole after {seconds:g} s") from error
        except UnicodeDecodeError as error:
            raise exceptions.TransportError("its answer is not text") from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise exceptions.TransportError(error) from error
        return answer

    return request


def _waited_for(work: Coroutine[Any, Any, Answer]) -> Answer:
    """Run it to its end, blocking, also where an event loop runs already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
