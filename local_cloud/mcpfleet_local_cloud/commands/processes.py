"""Finds and terminates other processes of this machine.

The facts come from `/proc`, or from `ps` without one: a minimal Debian has no `ps`, and macOS has no `/proc`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.phases import SetupError

_KILL_SECONDS = 5.0
"""Seconds that the kernel may take to end a killed process."""


def _ps(columns: str, pid: int) -> str:
    try:
        done = subprocess.run(
            ["ps", "-ww", "-o", columns, "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


@dataclass(frozen=True, kw_only=True)
class Processes:
    """The processes of one machine. A process may end at any time, also between two calls.

    Attributes:
        proc: The folder of the proc file system, if there is one.
        ps: Gives the columns (as `ps -o` names them, without titles) of a process id as a line; "" if it has ended.
        send: Sends a signal, as `os.kill`.
        clock: A monotonic clock in seconds.
        sleep: Waits for a number of seconds.
    """

    proc: Path = Path("/proc")
    ps: Callable[[str, int], str] = _ps
    send: Callable[[int, int], None] = os.kill
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def is_running(self, pid: int, expected: Sequence[str]) -> bool:
        """Return whether the process runs and has each of *expected* as an argument, or as an argument's file name.

        This tells a process from a later one with the same process id.
        """
        if not self.is_alive(pid):
            return False
        try:
            arguments = self._arguments(pid)
        except OSError:
            line = self.ps("args=", pid)  # ps does not separate arguments
            return bool(line) and all(word in line for word in expected)
        names = {*arguments, *(argument.rpartition(b"/")[2] for argument in arguments)}
        return all(os.fsencode(word) in names for word in expected)

    def program_name(self, pid: int) -> str:
        """The file name of the process's program; "" if it has ended."""
        if not self.is_alive(pid):
            return ""
        try:
            return Path(os.fsdecode(self._arguments(pid)[0])).name
        except OSError:
            return Path(self.ps("comm=", pid)).name

    def parent_pid(self, pid: int) -> int:
        """The id of the parent process; 0 if the process has ended."""
        return self._facts(pid)[1]

    def is_alive(self, pid: int) -> bool:
        """Return whether the process runs. A zombie, which has ended but was not waited for, does not."""
        return self._facts(pid)[0] not in {"", "Z", "X"}

    def terminate(self, pid: int, grace: float = 10) -> None:
        """Send SIGTERM, then SIGKILL if the process has not ended within *grace* seconds.

        Raises:
            SetupError: The process belongs to another user.
        """
        for signal_number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
            try:
                self.send(pid, signal_number)
            except ProcessLookupError:
                return
            except PermissionError:
                raise SetupError(
                    f"Process {pid} was started in this checkout by another user, and must end first.",
                    f"end it as that user (sudo kill {pid}), then run the command again.",
                ) from None
            deadline = self.clock() + seconds
            while self.clock() < deadline:
                if not self.is_alive(pid):
                    return
                self.sleep(0.02)

    def _arguments(self, pid: int) -> list[bytes]:
        return (self.proc / str(pid) / "cmdline").read_bytes().split(b"\0")

    def _facts(self, pid: int) -> tuple[str, int]:
        """The letter of the process's state, and its parent's id; ("", 0) if it has ended."""
        if pid <= 0:
            return "", 0
        if (self.proc / "self").exists():
            try:
                text = (self.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                return "", 0
            # `17 (name) S 1 …`; the name may contain spaces and brackets.
            state, parent = text.rpartition(")")[2].split()[:2]
            return state, int(parent)
        state, _, parent = self.ps("stat=,ppid=", pid).partition(" ")
        return state[:1], int(parent.strip() or 0)
