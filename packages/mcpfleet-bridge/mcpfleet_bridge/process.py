"""One operating system process that speaks over stdin and stdout: its start, its limits, its stderr and its exit.

Each process leads its own session and process group. However it exits, the bridge then kills the rest of its group,
and every other process with its mark (`orphans.py`).
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
from mcpfleet_bridge.lines import LineSplitter, NotOneLineError, TruncatedLine, is_line
from mcpfleet_bridge.settings import MEBIBYTE, Settings

logger = logging.getLogger(__name__)
server_log = logging.getLogger("mcpfleet_bridge.server")

EOF_SECONDS: Final = 0.5
"""Seconds that a process may take to exit after its stdin is closed, which is how MCP ends a stdio server."""

TERM_SECONDS: Final = 1.0
"""Seconds that a process may take to exit after SIGTERM; then its group gets SIGKILL."""

PIPE_SECONDS: Final = 1.0
"""Seconds that the last output of an exited process may take to arrive."""

MAX_UNSENT_BYTES: Final = 16 * MEBIBYTE
"""Bytes that may wait for a server that does not read its stdin. Calls beyond that are refused."""

MAX_STDERR_LINE_BYTES: Final = 16 * 1024
"""Maximum bytes of a line of stderr that are logged."""

STDERR_LINES_PER_SECOND: Final = 200
"""Maximum lines of stderr per second and process that are logged; further lines are only counted."""

NO_SEVERITY: Final = logging.INFO + 1
"""A log level without a name, whose entries get the severity DEFAULT, as Cloud Logging does for lines of stderr."""


class ProcessListener(Protocol):
    """Receives the output and the exit of a process."""

    def on_line(self, line: bytes) -> None:
        """Handle a line of stdout."""

    def on_too_long(self, line: TruncatedLine) -> None:
        """Handle a line of stdout that was above the limit and dropped."""

    def on_exit(self, reason: str) -> None:
        """Handle the exit. Called once, after the last line."""


class Channel(Protocol):
    """The interface of a running process for the rest of the bridge."""

    @property
    def name(self) -> str:
        """The name in log entries."""
        ...

    def write(self, line: bytes) -> bool:
        """Send one line, including its line feed; return False if the process takes no more at present.

        Raises:
            NotOneLineError: The bytes are not exactly one line for every reader.
        """
        ...

    async def stop(self) -> None:
        """Stop the process, and return when its whole group has exited."""
        ...


_numbers = itertools.count(1)
_running_pids: set[int] = set()


@dataclass(frozen=True)
class ProcessSpec:
    """The command, environment and limits of a server's processes."""

    command: Sequence[str]
    environment: dict[str, str]
    directory: str | None
    max_line: int
    memory: int  # MiB of data; 0: no limit
    open_files: int

    @classmethod
    def from_settings(cls, settings: Settings) -> "ProcessSpec":
        """Create the specification from the settings."""
        return cls(
            command=settings.command,
            environment=dict(settings.environment),
            directory=settings.directory,
            max_line=settings.max_answer,
            memory=settings.memory,
            open_files=settings.open_files,
        )

    async def start(self, reader: ProcessListener) -> Channel:
        """Start a process.

        Raises:
            OSError: The program does not exist, or can't be run.
        """
        number = next(_numbers)
        mark = f"{os.getpid()}-{number}"
        loop = asyncio.get_running_loop()
        try:
            transport, process = await loop.subprocess_exec(
                lambda: Process(f"{number}", mark, reader, self.max_line),
                *self.command,
                env={**self.environment, orphans.MARK_VARIABLE: mark},
                cwd=self.directory,
                start_new_session=True,
            )
        except OSError as error:
            folder = "" if self.directory is None else f" in {self.directory}"
            raise OSError(error.errno, error.strerror, f"{self.command[0]}{folder}") from None
        self._apply_limits(transport.get_pid())
        logger.info("Started %s as process %d", self.command[0], transport.get_pid(), extra={"child": f"{number}"})
        return process

    def _apply_limits(self, pid: int) -> None:
        # From outside, right after the start: code between fork and exec is not safe in a process that has threads.
        limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_NOFILE: self.open_files}
        if self.memory:
            # Data, not address space: V8 reserves gigabytes of addresses that it never uses.
            limits[resource.RLIMIT_DATA] = self.memory * MEBIBYTE
        for resource_type, limit in limits.items():
            with contextlib.suppress(ProcessLookupError):  # it has exited already
                hard = resource.prlimit(pid, resource_type)[1]
                allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
                resource.prlimit(pid, resource_type, (allowed, allowed))


class Process(asyncio.SubprocessProtocol):
    """One running process."""

    def __init__(self, name: str, mark: str, reader: ProcessListener, max_line: int) -> None:
        self.name = name
        self._mark = mark
        self._reader = reader
        self._out = LineSplitter(max_line)
        self._err = LineSplitter(MAX_STDERR_LINE_BYTES)
        self._err_second = 0
        self._err_lines = 0
        self._exited = asyncio.Event()
        self._reason = "its pipes were closed"
        self._is_stdout_open = True
        self._is_stopping = False

    # --- callbacks of the event loop ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self._pid = self._transport.get_pid()
        self._stdin = cast("asyncio.WriteTransport", self._transport.get_pipe_transport(0))
        _running_pids.add(self._pid)

    def pipe_data_received(self, fd: int, data: bytes) -> None:  # noqa: D102
        if fd == 1:
            for line in self._out.feed(data):
                if isinstance(line, TruncatedLine):
                    self._reader.on_too_long(line)
                else:
                    self._reader.on_line(line)
        else:
            for line in self._err.feed(data):
                self._log_stderr(line)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: D102
        if fd == 1:
            self._is_stdout_open = False
            if remainder := self._out.take_remainder():
                # An unfinished last line counts as a line: the process can't complete it any more.
                self._reader.on_line(remainder)
        if fd == 2 and (remainder := self._err.take_remainder()):  # stderr
            self._log_stderr(remainder)
        if fd in (0, 1) and self._transport.get_returncode() is None and not self._is_stopping:
            # A process that has closed stdin or stdout is useless, even if it still runs.
            asyncio.ensure_future(self.stop())  # noqa: RUF006  # the task ends by itself

    def process_exited(self) -> None:  # noqa: D102
        code = self._transport.get_returncode()
        self._reason = describe_exit(code)
        self._kill_group()
        # Its last output is still in the pipe. All other processes that had the pipe open have just been killed.
        asyncio.get_running_loop().call_later(PIPE_SECONDS, self._finish)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._finish()

    # --- methods for the bridge ---------------------------------------------------------------------------

    def write(self, line: bytes) -> bool:
        """Send one line, including its line feed; return False if the process takes no more at present.

        Raises:
            NotOneLineError: The bytes are not exactly one line for every reader.
        """
        if not is_line(line):
            raise NotOneLineError("a message that is not one line was not sent")
        if self._exited.is_set():
            return False
        if self._stdin.is_closing():
            return True  # the process is about to exit, which answers the calls that are lost here
        if self._stdin.get_write_buffer_size() + len(line) > MAX_UNSENT_BYTES:
            return False
        self._stdin.write(line)
        return True

    async def stop(self) -> None:
        """Stop the process: close its stdin, send SIGTERM, send SIGKILL, each only if the previous step failed."""
        self._is_stopping = True
        if not self._exited.is_set():
            self._stdin.close()
            if not await self._wait_for_exit(EOF_SECONDS):
                self._signal_group(signal.SIGTERM)
                if not await self._wait_for_exit(TERM_SECONDS):
                    self._signal_group(signal.SIGKILL)
                    await self._wait_for_exit(PIPE_SECONDS + TERM_SECONDS)
        self._finish()

    async def _wait_for_exit(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), seconds)
        return self._exited.is_set()

    def _signal_group(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    def _kill_group(self) -> None:
        self._signal_group(signal.SIGKILL)
        orphans.kill_marked(self._mark)

    def _finish(self) -> None:
        if self._exited.is_set():
            return
        self._exited.set()
        self._kill_group()
        self._transport.close()
        _running_pids.discard(self._pid)
        asyncio.get_running_loop().call_later(TERM_SECONDS, reap_adopted)
        self._reader.on_exit(self._reason)

    def _log_stderr(self, line: bytes | TruncatedLine) -> None:
        now = int(time.monotonic())
        if now != self._err_second:
            if (dropped := self._err_lines - STDERR_LINES_PER_SECOND) > 0:
                server_log.warning("%d more lines of stderr in one second", dropped, extra={"child": self.name})
            self._err_second, self._err_lines = now, 0
        self._err_lines += 1
        if self._err_lines > STDERR_LINES_PER_SECOND:
            return
        data = line.head + b" ... (%d bytes)" % line.size if isinstance(line, TruncatedLine) else line
        text = data.decode("utf-8", "replace")
        server_log.log(NO_SEVERITY, "%s", text, extra={"child": self.name})


def reap_adopted() -> None:
    """Reap the processes that the bridge's own processes have left behind."""
    orphans.reap(lambda pid: pid in _running_pids)


def describe_exit(code: int | None) -> str:
    """Describe the exit of a process for people."""
    if code is None:
        return "it was stopped"
    if code >= 0:
        return f"it exited with code {code}"
    try:
        return f"it was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"it was killed by signal {-code}"
