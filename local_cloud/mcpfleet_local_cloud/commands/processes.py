"""What is known about other processes of this machine, and how one is ended.

Read from `/proc` where there is one, else from `ps`: a minimal Debian has no `ps`, and macOS has no `/proc`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcpfleet_local_cloud.commands.phases import SetupError

_KILL_PATIENCE = 5.0
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
    """The processes of one machine; each question may be answered by *nobody has this number any more*.

    Attributes:
        proc: The kernel's folder, where there is one.
        ps: Columns (as `ps -o` names them, each with an empty title) and a process → its line, "" where it is gone.
        send: Sends a signal, as `os.kill`.
        clock: Seconds, from anywhere.
        sleep: Waits for a number of seconds.
    """

    proc: Path = Path("/proc")
    ps: Callable[[str, int], str] = _ps
    send: Callable[[int, int], None] = os.kill
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def runs(self, pid: int, words: Sequence[str]) -> bool:
        """Whether a process lives whose command line has each of *words*, as an argument or as one's file name.

        Its number may be another's by now.
        """
        if not self.alive(pid):
            return False
        try:
            arguments = self._arguments(pid)
        except OSError:
            line = self.ps("args=", pid)  # it does not say where one argument ends
            return bool(line) and all(word in line for word in words)
        names = {*arguments, *(argument.rpartition(b"/")[2] for argument in arguments)}
        return all(os.fsencode(word) in names for word in words)

    def program(self, pid: int) -> str:
        """The file name of what it runs; "" where it is gone."""
        if not self.alive(pid):
            return ""
        try:
            return Path(os.fsdecode(self._arguments(pid)[0])).name
        except OSError:
            return Path(self.ps("comm=", pid)).name

    def parent(self, pid: int) -> int:
        """The process that started it, or that took it over; 0 where it is gone."""
        return self._facts(pid)[1]

    def alive(self, pid: int) -> bool:
        """Whether it runs. One that has ended and that nobody has asked about (a zombie) does not."""
        return self._facts(pid)[0] not in {"", "Z", "X"}

    def end(self, pid: int, grace: float = 10) -> None:
        """SIGTERM, and SIGKILL where that does not end it within *grace* seconds.

        Raises:
            SetupError: It is another user's.
        """
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_PATIENCE)):
            try:
                self.send(pid, number)
            except ProcessLookupError:
                return
            except PermissionError:
                raise SetupError(
                    f"Process {pid} was started here by another user and has to end first.",
                    f"end it as that user (sudo kill {pid}), then run the command again.",
                ) from None
            deadline = self.clock() + patience
            while self.clock() < deadline:
                if not self.alive(pid):
                    return
                self.sleep(0.02)

    def _arguments(self, pid: int) -> list[bytes]:
        return (self.proc / str(pid) / "cmdline").read_bytes().split(b"\0")

    def _facts(self, pid: int) -> tuple[str, int]:
        """The letter of its state and its parent; ("", 0) where it is gone."""
        if pid <= 0:
            return "", 0
        if (self.proc / "self").exists():
            try:
                text = (self.proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                return "", 0
            # `17 (name) S 1 …`; the name may hold spaces and brackets.
            state, parent = text.rpartition(")")[2].split()[:2]
            return state, int(parent)
        state, _, parent = self.ps("stat=,ppid=", pid).partition(" ")
        return state[:1], int(parent.strip() or 0)
