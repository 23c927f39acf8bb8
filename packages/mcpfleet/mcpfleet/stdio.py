"""Runs `mcpfleet connect`: the relay on standard input and output, with one message on each line.

A thread reads the input, because only that works with pipes, files and terminals on every system.
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
from mcpfleet.jsonrpc import is_single_line
from mcpfleet.relay import Relay
from mcpfleet.system import closed_streams, event_loop_runner, handle_signals
from mcpfleet.target import Target
from mcpfleet.upstream import Upstream

GRACE_SECONDS = 1.5
"""How long pending requests may continue after the client closes its end; clients kill the process after two."""
_CHUNK = 1 << 16

_log = logging.getLogger("mcpfleet.connect")


def run_connect(target: Target, auth: IdTokenAuth) -> None:
    """Serve the client on standard input and output until it closes its end.

    Raises:
        UsageError: Standard input or output is closed.
    """
    if closed := closed_streams():
        raise UsageError(
            f"Standard {' and '.join(closed)} is closed, and this command speaks MCP there. It is for MCP clients: "
            "`mcpfleet config CLIENT` configures one."
        )
    sys.stdout = sys.stderr  # the client reads file descriptor 1 as MCP: a stray print would break it
    event_loop_runner()(_connect(target, auth))


async def _connect(target: Target, auth: IdTokenAuth) -> None:
    upstream = Upstream(target, auth)
    # The first token takes the longest, so fetch it before the client's first message.
    token_task = asyncio.ensure_future(_fetch_first_token(target, auth))
    try:
        await serve(lambda emit: Relay(upstream, emit))
    finally:
        token_task.cancel()
        await upstream.aclose()


async def _fetch_first_token(target: Target, auth: IdTokenAuth) -> None:
    try:
        await auth.tokens.aget()
    except AuthError as error:
        _log.warning("%s", error)  # the client gets this error for its first request
        return
    _log.info("%s as %s", target.mcp_url, auth.tokens.identity)


async def serve(create_relay: Callable[[Callable[[bytes], None]], Relay], source: int = 0, sink: int = 1) -> None:
    """Pass lines between a client and a relay until the client closes its end, or a signal arrives.

    Args:
        create_relay: Creates the relay; its argument is a function that writes a line for the client.
        source: The file descriptor to read.
        sink: The file descriptor to write.
    """
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[bytes | None] = asyncio.Queue()  # None marks the end
    ended = asyncio.Event()

    def write(line: bytes) -> None:
        if not is_single_line(line):
            _log.error("a message with several lines was not written: %.200r", line)
            return
        try:
            _write_all(sink, line + b"\n")
        except OSError:  # the client has closed its end
            ended.set()

    def call_in_loop(call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop ended before the client closed its end
            loop.call_soon_threadsafe(call, *arguments)

    def read_input() -> None:
        for line in _read_lines(source):
            call_in_loop(lines.put_nowait, line)
        call_in_loop(lines.put_nowait, None)
        call_in_loop(loop.call_later, GRACE_SECONDS, ended.set)

    async def pump(relay: Relay) -> None:
        while (line := await lines.get()) is not None:
            await relay.handle_line(line)

    handle_signals(loop, ended.set)
    relay = create_relay(write)
    threading.Thread(target=read_input, name="mcpfleet-stdin", daemon=True).start()
    pumping, ending = asyncio.ensure_future(pump(relay)), asyncio.ensure_future(ended.wait())
    await asyncio.wait({pumping, ending}, return_when=asyncio.FIRST_COMPLETED)
    ending.cancel()
    is_closed = pumping.done()
    pumping.cancel()
    await relay.aclose(GRACE_SECONDS if is_closed else 0)
    if is_closed:
        pumping.result()


def _read_lines(source: int) -> Iterator[bytes]:
    """Yield the lines of a file descriptor, without their ends; the last line may have no end."""
    parts: list[bytes] = []
    with contextlib.suppress(OSError):
        while chunk := os.read(source, _CHUNK):
            first, *rest = chunk.split(b"\n")
            parts.append(first)
            for line in rest:
                yield b"".join(parts)
                parts = [line]
    if last := b"".join(parts):
        yield last


def _write_all(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]
