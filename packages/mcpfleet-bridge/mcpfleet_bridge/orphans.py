"""Processes that a server has started and left behind: found by a mark in their environment, and ended.

A server's process group holds most of what it starts. A program that makes a session of its own leaves the
group, though, and when its parent ends it becomes a child of the bridge: process 1 of the container, or the
nearest subreaper. Linux only; elsewhere nothing is found.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

MARK: Final = "MCP_STDIO_PROCESS"
"""The variable that says which of the bridge's processes something descends from."""

_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt() -> None:
    """Become the parent of what descendants leave behind, as process 1 of a container is anyway."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def marked(mark: str) -> Iterator[int]:
    """The processes that carry a mark."""
    wanted = f"{MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue  # it has ended, or is somebody else's
        if wanted in environment.split(b"\0"):
            yield int(place.name)


def end_marked(mark: str) -> int:
    """Kill what carries a mark; returns how many processes that were."""
    killed = 0
    for process in marked(mark):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
            killed += 1
    return killed


def reap(is_ours: Callable[[int], bool]) -> int:
    """Take the exit codes of adopted processes, so that none stays as a zombie; returns how many.

    Args:
        is_ours: Says of a process id whether the event loop waits for that one itself.
    """
    reaped = 0
    while True:
        try:
            # A look without taking: the loop would otherwise never hear of the end of its own.
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return reaped
        if ended is None or is_ours(ended.si_pid):
            return reaped
        with contextlib.suppress(ChildProcessError):
            os.waitpid(ended.si_pid, os.WNOHANG)
        reaped += 1
