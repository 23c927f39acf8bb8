"""How much of a server's answer is taken: a hostile or broken server must not fill this machine's memory or time.

`MCPFLEET_MAX_ANSWER` says how many bytes one message of a server may have, by default what the fleet's own bridge lets
through. What JSON takes when it is read depends on its objects and lists, some 500 bytes each by the models of the SDK:
so these are bounded, too, by a count of their brackets, those in texts included.
`MCPFLEET_CHECK_SECONDS` says how long one check of `verify` or `doctor` may take in all, however an answer drips,
`MCPFLEET_ANSWER_SECONDS` how long it may take until an answer to `connect` or `proxy` begins, however its headers drip.
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
IN_ALL: Final = 4
"""So many times the bound of one answer is what all answers of a check may have together."""
AS_IT_IS: Final = {"accept-encoding": "identity"}

BRACKETS: Final = 1_000_000
"""Opening brackets of one message, for programs that do not know what their servers are asked for."""
FEW_BRACKETS: Final = 100_000
"""The same for a check, which asks for lists of tools."""

_ANSWER: Final = 16 * 2**20
_SECONDS: Final = 60.0
_LONGEST: Final = 3660.0
"""Cloud Run itself answers 504 after 3600 seconds at most (its services' request timeout)."""
_STREAM: Final = "text/event-stream"
_ENDS: Final = (b"\n\n", b"\r\r", b"\r\n\r\n")


class TooLargeError(httpx2.ReadError):
    """An answer was longer than is taken, or came in a form whose size nobody knows."""


def max_answer() -> int:
    """Bytes of one message of a server.

    Raises:
        UsageError: The variable holds something else.
    """
    return int(_number(MAX_ANSWER, _ANSWER, 1024))


def check_seconds() -> float:
    """Seconds that one check may take.

    Raises:
        UsageError: The variable holds something else.
    """
    return _number(CHECK_SECONDS, _SECONDS, 0.1)


def answer_seconds() -> float:
    """Seconds until an answer has to begin.

    Raises:
        UsageError: The variable holds something else.
    """
    return _number(ANSWER_SECONDS, _LONGEST, 0.1)


def _number(name: str, otherwise: float, least: float) -> float:
    text = os.environ.get(name, "")
    try:
        found = float(text or otherwise)
    except ValueError:
        found = float("nan")
    if not least <= found <= 2**40:
        raise UsageError(f"{name} is {text!r}; write a number from {least:g}.")
    return found


def too_large(limit: int) -> TooLargeError:
    """The error that names the limit, and how to change it."""
    return TooLargeError(f"the answer is longer than the {limit} bytes of {MAX_ANSWER}")


def brackets_of(text: bytes) -> int:
    """How many objects and lists a text may begin at most."""
    return text.count(b"{") + text.count(b"[")


def too_many(limit: int) -> TooLargeError:
    """The error of an answer that would take too much memory when it is read."""
    return TooLargeError(f"the answer has more than {limit} objects and lists")


def json_object(text: str | bytes) -> dict[str, Any]:
    """Read text of others that should be a JSON object.

    Raises:
        ValueError: It is none, or is nested more deeply than Python reads; says why.
    """
    try:
        found = json_value(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is not an object")  # noqa: TRY004 - one error for whatever is no object
    return cast("dict[str, Any]", found)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


_STRICT: Final = json.JSONDecoder(parse_constant=_no_constant)


def json_value(text: str | bytes) -> object:
    """Read JSON, without NaN and Infinity, which Python takes for it, and others do not (RFC 8259, section 6).

    Raises:
        ValueError: It is none.
        RecursionError: It is nested more deeply than Python reads.
    """
    # As `json.loads`, which would make a decoder for each call.
    shown = text if isinstance(text, str) else text.decode(json.detect_encoding(text), "surrogatepass")
    return _STRICT.decode(shown)


class Bound:
    """A response hook of an httpx2 client: its answers are bounded, and come as they are.

    The client asks for answers that are not compressed (`AS_IT_IS`), and others are refused: a few bytes could become
    gigabytes.

    Args:
        limit: Bytes of an answer, or of one event of a stream; by default what `MCPFLEET_MAX_ANSWER` says.
        in_all: Bytes of all answers together; as many as come where it is not given.
        brackets: Opening brackets of an answer, or of one event of a stream.
        streams: Whether streams are read event by event; otherwise they are answers like others.
    """

    def __init__(
        self, limit: int | None = None, in_all: int | None = None, brackets: int = BRACKETS, *, streams: bool = True
    ) -> None:
        self._limit = max_answer() if limit is None else limit
        self._left = in_all
        self._brackets = brackets
        self._streams = streams

    async def __call__(self, response: httpx2.Response) -> None:
        """Watch what comes.

        Raises:
            TooLargeError: It is compressed.
        """
        packed = response.headers.get("content-encoding", "").strip().lower()
        if packed not in {"", "identity"}:
            raise TooLargeError(f"the answer is compressed ({packed[:40]}), which was not asked for")
        # A refusal is read whole, whatever it says that it is.
        readable = self._streams and response.is_success
        streams = readable and response.headers.get("content-type", "").lower().startswith(_STREAM)
        inner = cast("httpx2.AsyncByteStream", response.stream)
        response.stream = _Counted(self, inner, self._limit, self._brackets, streams=streams)

    def spend(self, count: int) -> None:
        """Count what came.

        Raises:
            TooLargeError: It is more than all answers may have.
        """
        if self._left is not None:
            self._left -= count
            if self._left < 0:
                raise TooLargeError(f"the answers together are longer than is taken ({IN_ALL} times {MAX_ANSWER})")


class _Counted(httpx2.AsyncByteStream):
    def __init__(
        self, owner: Bound, inner: httpx2.AsyncByteStream, limit: int, brackets: int, *, streams: bool
    ) -> None:
        self._owner = owner
        self._inner = inner
        self._limit = limit
        self._brackets = brackets
        self._streams = streams

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = opened = 0
        async for piece in self._inner:
            self._owner.spend(len(piece))
            # The end of an event may lie across two pieces: then the next one counts with it, which is no great harm.
            ended = max((piece.rfind(end) for end in _ENDS), default=-1) if self._streams else -1
            size = len(piece) - ended if ended >= 0 else size + len(piece)
            if size > self._limit or len(piece) > self._limit:
                raise too_large(self._limit)
            opened = brackets_of(piece) + (0 if ended >= 0 else opened)
            if opened > self._brackets:
                raise too_many(self._brackets)
            yield piece

    async def aclose(self) -> None:
        await self._inner.aclose()
