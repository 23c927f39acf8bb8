"""The differences between Linux, macOS and Windows. No other module of this package has code for one of them.

A test checks the syntax trees of the other modules for functions that only POSIX has.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

WINDOWS: Final = "win32"

SET_CLOCK_COMMAND: Final = {WINDOWS: "w32tm /resync", "darwin": "sudo sntp -sS time.apple.com"}.get(
    sys.platform, "timedatectl set-ntp true"
)
"""The command that sets the clock to the network's time."""


def event_loop_runner() -> Callable[..., object]:
    """The function that runs an event loop: uvloop's if it is installed, which saves a fifth of the time of a call."""
    try:
        import uvloop
    except ImportError:  # it is not for Windows
        return asyncio.run
    return uvloop.run


def handle_signals(loop: asyncio.AbstractEventLoop, end: Callable[[], object]) -> None:
    """Call *end* at SIGTERM and SIGINT.

    Event loops on Windows have no signal handlers: there, Ctrl-C cancels the main task, and a process that is ended
    gets no signal.
    """
    for name in ("SIGTERM", "SIGINT"):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # nor has any thread but the main one
            loop.add_signal_handler(getattr(signal, name), end)


def listen(port: int) -> socket.socket:
    """Open a listening socket on 127.0.0.1, and on no other interface. No other program can share its port.

    Raises:
        OSError: The port is in use, or not permitted.
    """
    exclusive_option: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    if exclusive_option is None:
        return socket.create_server(("127.0.0.1", port))
    # On Windows, without this option, another program could listen on the same port and get its connections.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, exclusive_option, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def split_command(command: str, platform: str = sys.platform) -> list[str]:
    """Split a command into its arguments, as this system's shell does. On Windows, a backslash does not escape.

    Raises:
        ValueError: A quote is not closed.
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars=False)
    lexer.whitespace_split = True
    lexer.commenters = ""
    if platform == WINDOWS:
        lexer.escape = ""
    return list(lexer)


def join_command(command: list[str], platform: str = sys.platform) -> str:
    """Join arguments to a command that a person can copy into this system's shell."""
    return subprocess.list2cmdline(command) if platform == WINDOWS else shlex.join(command)


def run_program(command: list[str], seconds: float, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end: without shell, input and window; its output is UTF-8.

    Args:
        command: The program and its arguments. The program is looked up in PATH: on Windows, gcloud is `gcloud.cmd`,
            which no system call finds by its short name.
        seconds: The time limit.
        folder: The working directory.

    Raises:
        FileNotFoundError: The program is not installed.
        OSError: It did not start.
        subprocess.TimeoutExpired: It did not end in time.
    """
    return subprocess.run(
        [shutil.which(command[0]) or command[0], *command[1:]],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
        # A desktop client starts this process without a console, and Windows would open one for each child process.
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def decode_text(content: bytes) -> str:
    """Decode the text of a file: UTF-8, or UTF-16 with a byte-order mark, which PowerShell 5 writes with `>`.

    Raises:
        UnicodeDecodeError: It is not text.
    """
    return content.decode("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def home_folder(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The user's home folder, as programs find it: on Windows, only shells use HOME."""
    names = ("USERPROFILE", "HOME") if platform == WINDOWS else ("HOME", "USERPROFILE")
    return Path(next((environ[name] for name in names if environ.get(name)), "") or Path.home())


def roaming_folder(environ: Mapping[str, str], platform: str = sys.platform) -> str:
    """The folder for a user's roaming application data on Windows."""
    return environ.get("APPDATA") or f"{home_folder(environ, platform)}\\AppData\\Roaming"


def packaged_folders(environ: Mapping[str, str], package: str, platform: str = sys.platform) -> list[Path]:
    """The folders that a packaged Windows app (MSIX, as in the Store) has instead of the roaming folder.

    Args:
        environ: The environment, which names the folder for local application data.
        package: The package's family name, without the publisher's hash.
        platform: The system, as `sys.platform` names it; the result is empty on others than Windows.
    """
    if platform != WINDOWS:
        return []
    local = environ.get("LOCALAPPDATA") or str(home_folder(environ, platform) / "AppData" / "Local")
    folders = (Path(local) / "Packages").glob(f"{package}_*/LocalCache/Roaming")
    return sorted(folder for folder in folders if folder.is_dir())


def npx_command(platform: str = sys.platform) -> tuple[str, ...]:
    """The command with which a desktop app starts npx. It lacks the shell's PATH; on Windows, npx is a cmd script."""
    return ("cmd", "/c", "npx") if platform == WINDOWS else (shutil.which("npx") or "npx",)


def closed_streams() -> list[str]:
    """The names of those of standard input and output that are closed: the next open file would get their number."""
    closed: list[str] = []
    for number, name in enumerate(("input", "output")):
        try:
            os.fstat(number)
        except OSError:
            closed.append(name)
    return closed
