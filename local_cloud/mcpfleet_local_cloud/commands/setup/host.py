"""The machine for setup: programs, free disk space, the network, the clock.

All of setup's access to the machine goes through `Host`, so that tests can replace it. Files in the caches are read and
written directly.
"""

import atexit
import os
import platform
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# An administrator's programs may be missing from a user's PATH (dockerd is in /usr/sbin on Debian).
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True)
class CompletedProgram:
    """The result of a program that has ended.

    Attributes:
        code: Its exit code; 127 if the program is missing, 124 if it was ended after its timeout.
        output: Its standard output and standard error, in order.
    """

    code: int
    output: str

    def tail(self, lines: int = 8) -> str:
        """Return the last lines of the output, which usually have the cause of a failure."""
        return "\n".join(self.output.strip().splitlines()[-lines:])


class BackgroundProcess(Protocol):
    """A program that outlives this one."""

    @property
    def pid(self) -> int:
        """The process id."""
        ...

    def exit_code(self) -> int | None:
        """Return the exit code; None while it runs."""
        ...


class Host(Protocol):
    """The machine that setup runs on."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment variables."""
        ...

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> CompletedProgram:
        """Run a program to its end, without input; `env` is added to the environment.

        Args:
            argv: The program and its arguments.
            cwd: The folder it starts in.
            env: Variables added to this process's own.
            timeout: Seconds after which it is ended.
            on_line: Called with each line while it runs.
        """
        ...

    def which(self, name: str) -> Path | None:
        """Find a program, on PATH or in the administrator's folders."""
        ...

    def start(self, argv: Sequence[str], log: Path) -> BackgroundProcess:
        """Start a program in a session of its own, its output appended to `log`."""
        ...

    def download(self, url: str, to: Path, *, timeout: float) -> None:
        """Fetch a file; `timeout` is in seconds, for the connection and between two parts.

        Raises:
            OSError: The server can't be reached, or does not have the file.
        """
        ...

    def is_root(self) -> bool:
        """Return whether this user may install packages and start daemons."""
        ...

    def free_bytes(self, path: Path) -> int | None:
        """Return the free space of the file system of `path`; None if the path is not on this machine."""
        ...

    def platform(self) -> tuple[str, str]:
        """Return the names of system and machine, such as ("Linux", "x86_64")."""
        ...

    def read(self, path: Path) -> str | None:
        """Return a system file's text; None if it can't be read."""
        ...

    def monotonic(self) -> float:
        """Return the seconds of a monotonic clock."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class _Detached:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        return self._process.poll()

    def __del__(self) -> None:
        # It is meant to outlive this process; Popen would warn that it still runs.
        if self._process.returncode is None:
            self._process.returncode = 0


class ThisHost:
    """The machine that this process runs on."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self.environ: Mapping[str, str] = os.environ if environ is None else environ
        self._children: set[subprocess.Popen[str]] = set()
        atexit.register(self._end_children)

    def run(  # noqa: D102 - see Host
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> CompletedProgram:
        try:
            process = subprocess.Popen(
                [str(word) for word in argv],
                cwd=cwd,
                env={**self.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
            )
        except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
            return CompletedProgram(127, str(error))
        self._children.add(process)
        timed_out = threading.Event()
        timer = threading.Timer(timeout or 0, lambda: (timed_out.set(), process.kill()))
        timer.daemon = True
        if timeout is not None:
            timer.start()
        lines: list[str] = []
        try:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            for line in process.stdout:
                lines.append(line)
                if on_line is not None:
                    on_line(line.rstrip("\n"))
            code = process.wait()
        finally:
            timer.cancel()
            self._children.discard(process)
            if process.stdout is not None:
                process.stdout.close()
        return CompletedProgram(124 if timed_out.is_set() else code, "".join(lines))

    def which(self, name: str) -> Path | None:  # noqa: D102
        path = os.pathsep.join([self.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])
        location = shutil.which(name, path=path)
        return Path(location) if location else None

    def start(self, argv: Sequence[str], log: Path) -> BackgroundProcess:  # noqa: D102
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(argv),
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        return _Detached(process)

    def download(self, url: str, to: Path, *, timeout: float) -> None:  # noqa: D102
        import httpx2

        try:
            with (
                httpx2.Client(verify=ssl.create_default_context(), follow_redirects=True, timeout=timeout) as client,
                client.stream("GET", url) as response,
                to.open("wb") as file,
            ):
                response.raise_for_status()
                for part in response.iter_bytes():
                    file.write(part)
        except httpx2.HTTPError as error:
            raise OSError(f"{url}: {error}") from error

    def is_root(self) -> bool:  # noqa: D102
        return os.geteuid() == 0

    def free_bytes(self, path: Path) -> int | None:  # noqa: D102
        # The cache may not exist yet; use the nearest folder that exists.
        for folder in (path, *path.parents):
            try:
                return shutil.disk_usage(folder).free
            except FileNotFoundError:
                continue
            except OSError:
                return None
        return None

    def platform(self) -> tuple[str, str]:  # noqa: D102
        return platform.system(), platform.machine()

    def read(self, path: Path) -> str | None:  # noqa: D102
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def monotonic(self) -> float:  # noqa: D102
        return time.monotonic()

    def sleep(self, seconds: float) -> None:  # noqa: D102
        time.sleep(seconds)

    def _end_children(self) -> None:
        for process in list(self._children):
            process.terminate()
