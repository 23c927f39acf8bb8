"""Finds and kills processes that a server has left behind, by a mark in their environment.

Most processes that a server starts stay in its process group. But a program that creates its own session leaves the
group, and when its parent exits, it becomes a child of the bridge: of process 1 in a container, or of the nearest
subreaper. Works only on Linux; on other systems, nothing is found.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

MARK_VARIABLE: Final = "MCP_STDIO_PROCESS"
"""The variable that identifies the bridge's process from which a process descends."""

_PR_SET_CHILD_SUBREAPER: Final = 36


def become_subreaper() -> None:
    """Become the parent of processes that descendants leave behind, as process 1 of a container is anyway."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def find_marked(mark: str) -> Iterator[int]:
    """Yield the IDs of the processes with a mark."""
    entry = f"{MARK_VARIABLE}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue  # the process has exited, or belongs to another user
        if entry in environment.split(b"\0"):
            yield int(folder.name)


def kill_marked(mark: str) -> int:
    """Kill the processes with a mark, and return their number."""
    killed = 0
    for pid in find_marked(mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
            killed += 1
    return killed


def reap(is_own_child: Callable[[int], bool]) -> int:
    """Reap adopted processes, so that none stays as a zombie, and return their number.

    Args:
        is_own_child: Returns whether the event loop itself waits for a process ID.
    """
    reaped = 0
    while True:
        try:
            # WNOWAIT only looks: otherwise, the event loop would miss the exit of its own children.
            exited = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return reaped
        if exited is None or is_own_child(exited.si_pid):
            return reaped
        with contextlib.suppress(ChildProcessError):
            os.waitpid(exited.si_pid, os.WNOHANG)
        reaped += 1
