"""Runs `mcpfleet connect`: the relay on standard input and output, one message on each line and nothing else.

Input is read by a thread, for only that works alike with pipes, files and terminals on every system.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

from mcpfleet.auth import IdTokenAuth
from mcpfleet.errors import AuthError, UsageError
from mcpfleet.jsonrpc import is_line
from mcpfleet.relay import Relay
from mcpfleet.system import at_signals, closed_streams, runner
from mcpfleet.target import Target
from mcpfleet.upstream import Upstream

GRACE_SECONDS = 1.5
"""What still runs when the client closes its end may finish for so long; clients kill after two seconds."""
_CHUNK = 1 << 16

_log = logging.getLogger("mcpfleet.connect")


def run_connect(target: Target, auth: IdTokenAuth) -> None:
    """Serve the client at this process's standard input and output until it leaves.

    Raises:
        UsageError: One of them is closed.
    """
    if closed := closed_streams():
        raise UsageError(
            f"Standard {' and '.join(closed)} is closed, and this speaks MCP there. An MCP client starts it; "
            "`mcpfleet config CLIENT` says how."
        )
    sys.stdout = sys.stderr  # the client reads file descriptor 1 as MCP: a stray print would break it
    runner()(_connect(target, auth))


async def _connect(target: Target, auth: IdTokenAuth) -> None:
    upstream = Upstream(target, auth)
    # The first token takes longer than all else, and the client has not said anything yet.
    first = asyncio.ensure_future(_first_token(target, auth))
    try:
        await serve(lambda emit: Relay(upstream, emit))
    finally:
        first.cancel()
        await upstream.aclose()


async def _first_token(target: Target, auth: IdTokenAuth) -> None:
    try:
        await auth.tokens.aget()
    except AuthError as error:
        _log.warning("%s", error)  # the client is told when it asks for something
        return
    _log.info("%s as %s", target.mcp_url, auth.tokens.identity)


async def serve(make: Callable[[Callable[[bytes], None]], Relay], source: int = 0, sink: int = 1) -> None:
    """Carry lines between a client and a relay until the client closes its end, or a signal comes.

    Args:
        make: Makes the relay; is given what writes a line for the client.
        source: The file descriptor to read.
        sink: The file descriptor to write.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()  # None: there are no more
    ended = asyncio.Event()

    def write(line: bytes) -> None:
        if not is_line(line):
            _log.error("what is not one line was not written: %.200r", line)
            return
        try:
            _write_all(sink, line + b"\n")
        except OSError:  # nobody reads any more
            ended.set()

    def in_loop(call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended before the client did
            loop.call_soon_threadsafe(call, *arguments)

    def read() -> None:
        for line in _lines(source):
            in_loop(lines.put_nowait, line)
        in_loop(lines.put_nowait, None)
        in_loop(loop.call_later, GRACE_SECONDS, ended.set)

    async def pump(relay: Relay) -> None:
        while (line := await lines.get()) is not None:
            await relay.handle_line(line)

    at_signals(loop, ended.set)
    relay = make(write)
    threading.Thread(target=read, name="mcpfleet-stdin", daemon=True).start()
    pumping, ending = asyncio.ensure_future(pump(relay)), asyncio.ensure_future(ended.wait())
    await asyncio.wait({pumping, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    closed = pumping.done()
    pumping.cancel()
    await relay.aclose(GRACE_SECONDS if closed else 0)
    if closed:
        pumping.result()


def _lines(source: int) -> Iterator[bytes]:
    """The lines of a file descriptor, without their ends; the last one may have none."""
    parts: list[bytes] = []
    with contextlib.suppress(OSError):
        while chunk := os.read(source, _CHUNK):
            first, *more = chunk.split(b"\n")
            parts.append(first)
            for line in more:
                yield b"".join(parts)
                parts = [line]
    if last := b"".join(parts):
        yield last


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]
