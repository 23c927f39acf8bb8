"""Limits for servers' responses: a hostile or broken server must not use up this machine's memory or time.

`MCPFLEET_MAX_ANSWER` is the most bytes of one message of a server, by default as many as the fleet's bridge forwards.
The memory of parsed JSON depends on its objects and lists, with about 500 bytes each in the SDK's models. So these are
limited, too, by the number of their brackets, including those in strings.
`MCPFLEET_CHECK_SECONDS` limits one check of `verify` or `doctor` in total, even if the response arrives slowly.
`MCPFLEET_ANSWER_SECONDS` limits the time until a response to `connect` or `proxy` begins, headers included.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any, Final, cast

import httpx2

from mcpfleet.errors import UsageError

MAX_ANSWER: Final = "MCPFLEET_MAX_ANSWER"
CHECK_SECONDS: Final = "MCPFLEET_CHECK_SECONDS"
ANSWER_SECONDS: Final = "MCPFLEET_ANSWER_SECONDS"
TOTAL_FACTOR: Final = 4
"""All responses of one check together may have this many times the bytes of one message."""
UNCOMPRESSED: Final = {"accept-encoding": "identity"}

MAX_BRACKETS: Final = 1_000_000
"""The most opening brackets of one message, for programs that forward any request."""
MAX_CHECK_BRACKETS: Final = 100_000
"""The most opening brackets of one message in a check, which lists tools."""

_DEFAULT_MAX_ANSWER: Final = 16 * 2**20
_DEFAULT_CHECK_SECONDS: Final = 60.0
_DEFAULT_ANSWER_SECONDS: Final = 3660.0
"""A little more than the maximum request timeout of Cloud Run, 3600 seconds, after which it returns 504."""
_EVENT_STREAM: Final = "text/event-stream"
_EVENT_ENDS: Final = (b"\n\n", b"\r\r", b"\r\n\r\n")


class TooLargeError(httpx2.ReadError):
    """A response is larger than the limit, or compressed, so that its size is unknown."""


def max_answer_bytes() -> int:
    """The most bytes of one message of a server.

    Raises:
        UsageError: The variable `MCPFLEET_MAX_ANSWER` is not a valid number.
    """
    return int(_read_number(MAX_ANSWER, _DEFAULT_MAX_ANSWER, 1024))


def check_seconds() -> float:
    """The time limit of one check, in seconds.

    Raises:
        UsageError: The variable `MCPFLEET_CHECK_SECONDS` is not a valid number.
    """
    return _read_number(CHECK_SECONDS, _DEFAULT_CHECK_SECONDS, 0.1)


def answer_seconds() -> float:
    """The time limit until a response begins, in seconds.

    Raises:
        UsageError: The variable `MCPFLEET_ANSWER_SECONDS` is not a valid number.
    """
    return _read_number(ANSWER_SECONDS, _DEFAULT_ANSWER_SECONDS, 0.1)


def _read_number(name: str, default: float, minimum: float) -> float:
    text = os.environ.get(name, "")
    try:
        number = float(text or default)
    except ValueError:
        number = float("nan")
    if not minimum <= number <= 2**40:
        raise UsageError(f"{name} is {text!r}; set it to a number of at least {minimum:g}.")
    return number


def too_large_error(limit: int) -> TooLargeError:
    """The error of a response with too many bytes; it names the variable that sets the limit."""
    return TooLargeError(f"the response is larger than {limit} bytes; {MAX_ANSWER} sets this limit")


def count_brackets(text: bytes) -> int:
    """Count the opening brackets of a text: it has no more objects and lists."""
    return text.count(b"{") + text.count(b"[")


def too_many_brackets_error(limit: int) -> TooLargeError:
    """The error of a response that would take too much memory when it is parsed."""
    return TooLargeError(f"the response has more than {limit} objects and lists")


def parse_json_object(text: str | bytes) -> dict[str, Any]:
    """Parse untrusted text as a JSON object.

    Raises:
        ValueError: It is not a JSON object, or is nested too deeply for Python; the message has the reason.
    """
    try:
        value = parse_json(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - one error class for all invalid text
    return cast("dict[str, Any]", value)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


_STRICT: Final = json.JSONDecoder(parse_constant=_refuse_constant)


def parse_json(text: str | bytes) -> object:
    """Parse JSON. NaN and Infinity, which Python's parser accepts, are invalid (RFC 8259, section 6).

    Raises:
        ValueError: It is not JSON.
        RecursionError: It is nested too deeply for Python.
    """
    # As `json.loads`, which would create a decoder for each call.
    decoded = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
    return _STRICT.decode(decoded)


class ResponseLimit:
    """A response hook of an httpx2 client that limits the size of responses.

    The client has to request uncompressed responses (`UNCOMPRESSED`). Compressed ones are refused, because a few bytes
    could become gigabytes.

    Args:
        limit: Bytes of a response, or of one event of a stream; by default the value of `MCPFLEET_MAX_ANSWER`.
        total: Bytes of all responses together; no limit by default.
        brackets: Opening brackets of a response, or of one event of a stream.
        streams: Whether to apply the limits to each event of a stream; otherwise to the whole stream.
    """

    def __init__(
        self, limit: int | None = None, total: int | None = None, brackets: int = MAX_BRACKETS, *, streams: bool = True
    ) -> None:
        self._limit = max_answer_bytes() if limit is None else limit
        self._remaining = total
        self._brackets = brackets
        self._streams = streams

    async def __call__(self, response: httpx2.Response) -> None:
        """Apply the limits to a response.

        Raises:
            TooLargeError: It is compressed.
        """
        encoding = response.headers.get("content-encoding", "").strip().lower()
        if encoding not in {"", "identity"}:
            raise TooLargeError(
                f"the response is compressed ({encoding[:40]}), although the request did not accept that"
            )
        # The body of an error counts as a whole, even if its content type is a stream.
        is_readable = self._streams and response.is_success
        is_stream = is_readable and response.headers.get("content-type", "").lower().startswith(_EVENT_STREAM)
        inner = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = _CountingStream(self, inner, self._limit, self._brackets, streams=is_stream)

    def count_bytes(self, size: int) -> None:
        """Count bytes that arrived.

        Raises:
            TooLargeError: All responses together have too many.
        """
        if self._remaining is not None:
            self._remaining -= size
            if self._remaining < 0:
                raise TooLargeError(
                    f"the answers together are longer than is taken ({TOTAL_FACTOR} times {MAX_ANSWER})"
                )


class _CountingStream(httpx2.AsyncByteStream):
    def __init__(
        self, owner: ResponseLimit, inner: httpx2.AsyncByteStream, limit: int, brackets: int, *, streams: bool
    ) -> None:
        self._owner = owner
        self._inner = inner
        self._limit = limit
        self._brackets = brackets
        self._streams = streams

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = brackets = 0
        async for chunk in self._inner:
            self._owner.count_bytes(len(chunk))
            # If two chunks share the end of an event, the next event counts with it, which hardly matters.
            event_end = max((chunk.rfind(end) for end in _EVENT_ENDS), default=-1) if self._streams else -1
            size = len(chunk) - event_end if event_end >= 0 else size + len(chunk)
            if size > self._limit or len(chunk) > self._limit:
                raise too_large_error(self._limit)
            brackets = count_brackets(chunk) + (0 if event_end >= 0 else brackets)
            if brackets > self._brackets:
                raise too_many_brackets_error(self._brackets)
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()
