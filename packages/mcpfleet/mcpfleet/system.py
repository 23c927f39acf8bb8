"""What is not alike on Linux, macOS and Windows: the only module of this package that may know what one of them lacks.

A test walks the syntax trees of the others for what only POSIX has.
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

SET_CLOCK: Final = {WINDOWS: "w32tm /resync", "darwin": "sudo sntp -sS time.apple.com"}.get(
    sys.platform, "timedatectl set-ntp true"
)
"""What sets the clock by the network's time."""


def runner() -> Callable[..., object]:
    """What runs an event loop: uvloop where there is one, which saves a fifth of the time of a call."""
    try:
        import uvloop
    except ImportError:  # it is not for Windows
        return asyncio.run
    return uvloop.run


def at_signals(loop: asyncio.AbstractEventLoop, end: Callable[[], object]) -> None:
    """Have SIGTERM and SIGINT call *end*.

    Windows' loops take no handlers: Ctrl-C cancels the main task there, and whoever ends a process leaves it no time.
    """
    for name in ("SIGTERM", "SIGINT"):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # and no other thread's
            loop.add_signal_handler(getattr(signal, name), end)


def listen(port: int) -> socket.socket:
    """A listening socket on 127.0.0.1, never on another interface, and nobody else's beside it.

    Raises:
        OSError: The port is taken, or not ours to take.
    """
    exclusive: int | None = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
    if exclusive is None:
        return socket.create_server(("127.0.0.1", port))
    # On Windows another program may take a port that listens already, and get its connections, unless it is told so.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, exclusive, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
    except BaseException:
        listener.close()
        raise
    return listener


def words_of(command: str, platform: str = sys.platform) -> list[str]:
    """The words of a command as a person writes it for this system's shell; on Windows a backslash is one.

    Raises:
        ValueError: A quote is not closed.
    """
    reader = shlex.shlex(command, posix=True, punctuation_chars=False)
    reader.whitespace_split = True
    reader.commenters = ""
    if platform == WINDOWS:
        reader.escape = ""
    return list(reader)


def command_of(words: list[str], platform: str = sys.platform) -> str:
    """A command that a person can copy into this system's shell."""
    return subprocess.list2cmdline(words) if platform == WINDOWS else shlex.join(words)


def run_program(words: list[str], seconds: float, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end: no shell, no input, no window, its text UTF-8.

    Args:
        words: The program, as PATH finds it, and its arguments. On Windows gcloud is `gcloud.cmd`, which no system call
            finds by its short name.
        seconds: How long it may run.
        folder: Where it runs.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It did not start.
        subprocess.TimeoutExpired: It did not end.
    """
    return subprocess.run(
        [shutil.which(words[0]) or words[0], *words[1:]],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
        stdin=subprocess.DEVNULL,
        # A desktop client starts us without a console, and Windows would open one for each program of ours.
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )


def text_of(content: bytes) -> str:
    """What a file says: UTF-8, or what its byte-order mark says; PowerShell 5 writes UTF-16 where a person types `>`.

    Raises:
        UnicodeDecodeError: It is not text.
    """
    return content.decode("utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def home_of(environ: Mapping[str, str], platform: str = sys.platform) -> Path:
    """The home of the user, where programs that are not shells look: on Windows, HOME is a shell's own."""
    names = ("USERPROFILE", "HOME") if platform == WINDOWS else ("HOME", "USERPROFILE")
    return Path(next((environ[one] for one in names if environ.get(one)), "") or Path.home())


def roaming_of(environ: Mapping[str, str], platform: str = sys.platform) -> str:
    """The folder of Windows in which programs keep what is a user's on every machine."""
    return environ.get("APPDATA") or f"{home_of(environ, platform)}\\AppData\\Roaming"


def packaged_of(environ: Mapping[str, str], package: str, platform: str = sys.platform) -> list[Path]:
    """The folders that a packaged program of Windows (MSIX: all of the Store's) has instead of the roaming one.

    Args:
        environ: Names the folder of this machine's own data.
        package: What the package's family name begins with, before the publisher's hash.
        platform: Elsewhere there are none.
    """
    if platform != WINDOWS:
        return []
    local = environ.get("LOCALAPPDATA") or str(home_of(environ, platform) / "AppData" / "Local")
    found = (Path(local) / "Packages").glob(f"{package}_*/LocalCache/Roaming")
    return sorted(one for one in found if one.is_dir())


def start_of_npx(platform: str = sys.platform) -> tuple[str, ...]:
    """How a desktop program starts npx: it has not the shell's PATH, and on Windows npx is a script of cmd's."""
    return ("cmd", "/c", "npx") if platform == WINDOWS else (shutil.which("npx") or "npx",)


def closed_streams() -> list[str]:
    """Which of standard input and output are closed; a file that is opened would take their number."""
    closed: list[str] = []
    for number, name in enumerate(("input", "output")):
        try:
            os.fstat(number)
        except OSError:
            closed.append(name)
    return closed
