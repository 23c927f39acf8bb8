"""One operating system process that speaks over its stdin and stdout: how it starts, what it may use, how it ends.

Each is the leader of a session and so of a process group of its own. However it ends, its group ends with it,
and so does whatever else carries its mark (`orphans.py`).
"""

import asyncio
import contextlib
import itertools
import logging
import os
import resource
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from mcpfleet_bridge import orphans
from mcpfleet_bridge.lines import Lines, NotOneLine, TooLong, is_line
from mcpfleet_bridge.settings import MEBIBYTE, Settings

logger = logging.getLogger(__name__)
server_log = logging.getLogger("mcpfleet_bridge.server")

EOF_SECONDS: Final = 0.5
"""How long a process may take to end once its stdin is closed, which is how MCP says goodbye."""

TERM_SECONDS: Final = 1.0
"""How long it may take after SIGTERM; then its group gets SIGKILL."""

PIPE_SECONDS: Final = 1.0
"""How long what an ended process has written last may take to arrive."""

MAX_UNSENT: Final = 16 * MEBIBYTE
"""How much may wait for a server that does not read its stdin, before the call that adds to it is refused."""

STDERR_LINE: Final = 16 * 1024
"""Bytes of a line of stderr that are logged."""

STDERR_RATE: Final = 200
"""Lines of stderr a second that are logged of one process; a flood is counted instead."""

UNSAID: Final = logging.INFO + 1
"""The level of a line that says none: it has no name, so its entry has the severity DEFAULT, as Cloud Logging's own."""


class Reader(Protocol):
    """Who hears what a process says."""

    def line(self, line: bytes) -> None:
        """A line of stdout."""

    def too_long(self, line: TooLong) -> None:
        """A line of stdout that was thrown away."""

    def gone(self, reason: str) -> None:
        """The end, said once, after every line."""


class Channel(Protocol):
    """A running process, as the rest of the bridge sees it."""

    @property
    def name(self) -> str:
        """What log entries call it."""
        ...

    def write(self, line: bytes) -> bool:
        """Send one line, its end included; False if the process takes no more for now.

        Raises:
            NotOneLine: It is more than one line.
        """
        ...

    async def stop(self) -> None:
        """End it, gently first; returns when nothing of it is left."""
        ...


_numbers = itertools.count(1)
_running: set[int] = set()


@dataclass(frozen=True)
class ProcessSpec:
    """How a server's processes are started."""

    command: Sequence[str]
    environment: dict[str, str]
    directory: str | None
    max_line: int
    memory: int  # MiB of data; 0: no limit
    open_files: int

    @classmethod
    def of(cls, settings: Settings) -> "ProcessSpec":
        """What the settings say."""
        return cls(
            command=settings.command,
            environment=dict(settings.environment),
            directory=settings.directory,
            max_line=settings.max_answer,
            memory=settings.memory,
            open_files=settings.open_files,
        )

    async def start(self, reader: Reader) -> Channel:
        """Start one.

        Raises:
            OSError: There is no such program, or it can't be run.
        """
        number = next(_numbers)
        mark = f"{os.getpid()}-{number}"
        loop = asyncio.get_running_loop()
        try:
            transport, process = await loop.subprocess_exec(
                lambda: Process(f"{number}", mark, reader, self.max_line),
                *self.command,
                env={**self.environment, orphans.MARK: mark},
                cwd=self.directory,
                start_new_session=True,
            )
        except OSError as error:
            where = "" if self.directory is None else f" in {self.directory}"
            raise OSError(error.errno, error.strerror, f"{self.command[0]}{where}") from None
        self._limit(transport.get_pid())
        logger.info("Started %s as process %d", self.command[0], transport.get_pid(), extra={"child": f"{number}"})
        return process

    def _limit(self, pid: int) -> None:
        # From outside, just after the start: code between fork and exec is not safe in a process that has threads.
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: self.open_files}
        if self.memory:
            # Data and not address space: V8 reserves gigabytes of addresses that it never uses.
            limits[resource.RLIMIT_DATA] = self.memory * MEBIBYTE
        for kind, limit in limits.items():
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                hard = resource.prlimit(pid, kind)[1]
                allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
                resource.prlimit(pid, kind, (allowed, allowed))


class Process(asyncio.SubprocessProtocol):
    """One running process."""

    def __init__(self, name: str, mark: str, reader: Reader, max_line: int) -> None:
        self.name = name
        self._mark = mark
        self._reader = reader
        self._out = Lines(max_line)
        self._err = Lines(STDERR_LINE)
        self._err_second = 0
        self._err_lines = 0
        self._ended = asyncio.Event()
        self._reason = "its pipes were closed"
        self._stdout_open = True
        self._stopping = False

    # --- what the loop says -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._pid = self._transport.get_pid()
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        _running.add(self._pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: D102
        if fd == 1:
            for line in self._out.feed(data):
                if isinstance(line, TooLong):
                    self._reader.too_long(line)
                else:
                    self._reader.line(line)
        else:
            for line in self._err.feed(data):
                self._log(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: D102
        if fd == 1:
            self._stdout_open = False
            if rest := self._out.rest():
                # A last line without its end is a line: the process has no way left to complete it.
                self._reader.line(rest)
        if fd == 2 and (rest := self._err.rest()):  # stderr
            self._log(rest)
        if fd in (0, 1) and self._transport.get_returncode() is None and not self._stopping:
            # Whoever can't listen or answer any more is of no use, even if it lives on.
            asyncio.ensure_future(self.stop())  # noqa: RUF006  # it ends itself

    def process_exited(self) -> None:  # noqa: D102
        code = self._transport.get_returncode()
        self._reason = describe(code)
        self._end_group()
        # What it has written last is still in the pipe; who holds the pipe open besides it has just been killed.
        asyncio.get_running_loop().call_later(PIPE_SECONDS, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._finish()

    # --- what the bridge does -----------------------------------------------------------------------------

    def write(self, line: bytes) -> bool:
        """Send one line, its end included; False if the process takes no more for now.

        Raises:
            NotOneLine: Somebody would read more than one line in it.
        """
        if not is_line(line):
            raise NotOneLine("a message that is not one line was not sent")
        if self._ended.is_set():
            return False
        if self._stdin.is_closing():
            return True  # its end is on the way, and will answer what is lost here
        if self._stdin.get_write_buffer_size() + len(line) > MAX_UNSENT:
            return False
        self._stdin.write(line)
        return True

    async def stop(self) -> None:
        """End it: close its stdin, then SIGTERM, then SIGKILL, each only if the one before was not enough."""
        self._stopping = True
        if not self._ended.is_set():
            self._stdin.close()
            if not await self._ends_within(EOF_SECONDS):
                self._signal(signal.SIGTERM)
                if not await self._ends_within(TERM_SECONDS):
                    self._signal(signal.SIGKILL)
                    await self._ends_within(PIPE_SECONDS + TERM_SECONDS)
        self._finish()

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _end_group(self) -> None:
        self._signal(signal.SIGKILL)
        orphans.end_marked(self._mark)

    def _finish(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._end_group()
        self._transport.close()
        _running.discard(self._pid)
        asyncio.get_running_loop().call_later(TERM_SECONDS, reap_adopted)
        self._reader.gone(self._reason)

    def _log(self, line: bytes | TooLong) -> None:
        now = int(time.monotonic())
        if now != self._err_second:
            if (lost := self._err_lines - STDERR_RATE) > 0:
                server_log.warning("%d more lines of stderr in one second", lost, extra={"child": self.name})
            self._err_second, self._err_lines = now, 0
        self._err_lines += 1
        if self._err_lines > STDERR_RATE:
            return
        data = line.head + b" ... (%d bytes)" % line.size if isinstance(line, TooLong) else line
        text = data.decode("utf-8", "replace")
        server_log.log(UNSAID, "%s", text, extra={"child": self.name})


def reap_adopted() -> None:
    """Take the exit codes of processes that our own have left to us."""
    orphans.reap(lambda pid: pid in _running)


def describe(code: int | None) -> str:
    """How a process ended, for people."""
    if code is None:
        return "it was ended"
    if code >= 0:
        return f"it exited with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
