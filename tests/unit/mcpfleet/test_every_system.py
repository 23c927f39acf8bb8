"""The command on macOS and Windows, as far as Linux can tell: what only POSIX has, consoles, streams, commands."""

import ast
import asyncio
import errno
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcpfleet
import mcpfleet_server
from mcpfleet import cli, prerequisites, stdio, system, terminal
from mcpfleet.errors import UsageError
from mcpfleet.target import Target

# --- the code -------------------------------------------------------------------------------------------

COMMAND = Path(mcpfleet.__file__).parent
SERVER = Path(mcpfleet_server.__file__).parent
FILES = [item for item in sorted(COMMAND.glob("*.py")) if item.name != "system.py"]
FILES += [SERVER / "__init__.py", SERVER / "logs.py"]  # what the command imports of it

# As typeshed and Python's documentation have them ("Availability: Unix"). Of loops: those of Windows have them too, and
# raise NotImplementedError.
MODULES = """
    crypt curses fcntl grp msvcrt nis posix pty pwd readline resource spwd syslog termios tty uvloop winreg
"""
OF_OS = """
    chown chroot ctermid fchdir fchmod fchown fork forkpty getegid geteuid getgid getgroups getloadavg getpgid getpgrp
    getpriority getresuid getsid getuid initgroups killpg lchown lockf mkfifo mknod nice openpty pathconf pidfd_open
    pipe2 posix_spawn pread preadv pwrite pwritev register_at_fork sched_getaffinity sendfile setegid seteuid setgid
    setgroups setpgid setpriority setsid setuid splice statvfs sync sysconf tcgetpgrp ttyname uname wait wait3 wait4
    waitid O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK WNOHANG
"""
OF_SIGNAL = """
    SIGALRM SIGCHLD SIGCONT SIGHUP SIGKILL SIGPIPE SIGQUIT SIGSTOP SIGTSTP SIGUSR1 SIGUSR2 SIGWINCH alarm pause
    pthread_kill pthread_sigmask setitimer siginterrupt sigpending sigwait
"""
OF_LOOPS = """
    add_reader add_signal_handler add_writer connect_read_pipe connect_write_pipe create_unix_connection
    create_unix_server open_unix_connection remove_signal_handler start_unix_server
"""
ATTRIBUTES = {
    "os": OF_OS.split(),
    "signal": OF_SIGNAL.split(),
    "socket": ["AF_UNIX", "SO_REUSEPORT", "MSG_NOSIGNAL", "recv_fds", "send_fds", "fromfd"],
    "select": ["poll", "epoll", "kqueue"],
    "time": ["tzset", "clock_gettime", "CLOCK_MONOTONIC", "CLOCK_BOOTTIME"],
}
OPTIONS = {"preexec_fn", "start_new_session", "process_group", "pass_fds", "user", "group", "umask"}
PATHS = ("/proc", "/dev/", "/tmp", "/etc/", "/var/", "/usr/", "/bin/", "/sys/")  # noqa: S108 - none of them is used


def only_posix(tree):
    """Return the names of a module that exist only on POSIX."""
    documented = {
        id(item.value) for item in ast.walk(tree) if isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Import():
                yield from (name.name for name in node.names if name.name.partition(".")[0] in MODULES.split())
            case ast.ImportFrom(module=module):
                root = (module or "").partition(".")[0]
                yield from [module] if root in MODULES.split() else []
                yield from (item.name for item in node.names if item.name in ATTRIBUTES.get(module or "", ()))
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if attribute in ATTRIBUTES.get(name, ()):
                yield f"{name}.{attribute}"
            case ast.Attribute(attr=attribute) if attribute in OF_LOOPS.split():
                yield attribute
            case ast.Call(keywords=keywords):
                yield from (item.arg for item in keywords if item.arg in OPTIONS)
            case ast.Constant(value=str(text)) if id(node) not in documented and text.startswith(PATHS):
                yield text
            case _:
                pass


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_one_module_uses_posix_only_functions(file):
    assert list(only_posix(ast.parse(file.read_text(encoding="utf-8")))) == []


def test_the_check_finds_posix_only_functions():
    text = """
import fcntl, os, uvloop
from signal import SIGKILL
os.geteuid()
loop.add_signal_handler(1, f)
subprocess.run([], start_new_session=True)
open("/proc/self/stat")
"""
    result = ["fcntl", "uvloop", "SIGKILL", "os.geteuid", "add_signal_handler", "start_new_session", "/proc/self/stat"]
    assert sorted(only_posix(ast.parse(text))) == sorted(result)


def test_text_is_read_and_written_as_utf_8_on_every_system():
    """Python 3.14 still opens files in cp1252 on Windows, unless it is told otherwise."""
    careless = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr="read_text" | "write_text"), keywords=keywords):
                    careless += (
                        [] if any(item.arg == "encoding" for item in keywords) else [f"{file.name}:{node.lineno}"]
                    )
                case ast.Call(keywords=keywords) if any(
                    item.arg in {"text", "universal_newlines"} for item in keywords
                ):
                    careless += [f"{file.name}:{node.lineno}"] if "run" in ast.dump(node.func) else []
                case _:
                    pass
    assert careless == []


# --- consoles and streams -------------------------------------------------------------------------------


class Full(io.RawIOBase):
    """A stream that takes nothing."""

    def __init__(self, error):
        self.error = error
        self.number = os.open(os.devnull, os.O_WRONLY)

    def fileno(self):
        return self.number

    def writable(self):
        return True

    def write(self, data):
        if self.error:
            raise self.error
        return len(data)


@pytest.fixture
def printed(monkeypatch, tmp_path):
    """`printed(encoding, *arguments)`: runs the command at such a console; its exit code, output and error output."""
    monkeypatch.setattr(prerequisites, "run_program", lambda *_: (_ for _ in ()).throw(FileNotFoundError("none")))
    monkeypatch.chdir(tmp_path)

    def run(encoding, *arguments, out=None, err=None):
        streams = [io.TextIOWrapper(item or io.BytesIO(), encoding=encoding) for item in (out, err)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        monkeypatch.setattr(sys, "argv", ["mcpfleet", *arguments])
        for name in ("_out", "_err"):  # one that has lost its reader says nothing any more, or says it later
            monkeypatch.setattr(cli, name, terminal.console(stderr=name == "_err"))
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        for item in (out, err):
            if item is not None:
                item.raw.error = None  # what is left in it is written when it is collected
        message = [
            item.buffer.getvalue().decode(encoding) if isinstance(item.buffer, io.BytesIO) else "" for item in streams
        ]
        return exit_info.value.code, *message

    return run


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_doctor_prints_to_a_console_of_any_encoding(printed, encoding):
    code, out, err = printed(encoding, "doctor")
    mark = "✗" if encoding == "utf-8" else "X"
    assert (code, err) == (1, "")
    assert f"  {mark} pulumi is not installed, or does not run" in out


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_help_is_printed_to_a_console_of_any_encoding(printed, encoding):
    code, out, _ = printed(encoding, "--help")
    assert code == 0
    assert "Reach private MCP servers" in out


@given(st.text())
def test_any_text_can_be_printed_to_a_console_of_any_encoding(text):
    with pytest.MonkeyPatch.context() as patch:
        stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
        patch.setattr(sys, "stdout", stream)
        cli.configure_streams()
        stream.write(f"{text}✓")
        stream.flush()
        assert stream.buffer.getvalue().endswith(b"ok")


def test_a_configuration_for_a_file_is_ascii_where_the_console_is_not_utf_8(printed, tmp_path):
    outputs = tmp_path / "outputs.json"
    url = "https://mcp-echo-1.europe-west1.run.app"
    outputs.write_text(json.dumps({"servers": {"echo": {"mcp_url": f"{url}/mcp", "audience": url}}}))
    key = tmp_path / "Jörg" / "key.json"
    for encoding in ("cp1252", "utf-8"):
        code, out, _ = printed(encoding, "config", "json", "--outputs", str(outputs), "--credentials", str(key))
        assert code == 0
        assert str(key) in json.loads(out)["mcpServers"]["echo"]["args"]
        assert out.isascii() is (encoding == "cp1252")


@pytest.mark.parametrize("arguments", [["doctor"], ["--help"], ["--version"]])
def test_a_full_disk_is_one_message_and_a_closed_pipe_is_silent(printed, arguments):
    code, _, err = printed("utf-8", *arguments, out=io.BufferedWriter(Full(OSError(errno.ENOSPC, "No space left"))))
    assert (code, err) == (1, "Error: Standard output cannot be written: No space left.\n")
    code, _, err = printed("utf-8", *arguments, out=io.BufferedWriter(Full(BrokenPipeError(errno.EPIPE, "Broken"))))
    assert (code, err) == (1, "")


def test_an_error_that_cannot_be_printed_is_an_exit_code(printed):
    full = io.BufferedWriter(Full(OSError(errno.ENOSPC, "No space left")))
    assert printed("utf-8", "config", "emacs", err=full)[0] == 2


def test_standard_streams_closed_at_startup_are_no_error(printed, monkeypatch):
    monkeypatch.setattr(cli, "configure_streams", lambda: monkeypatch.setattr(sys, "stdout", None))
    assert printed("utf-8", "doctor")[0] == 1


@pytest.mark.parametrize("closed", [[0], [1], [0, 1]])
def test_connect_reports_a_closed_stream_before_its_descriptor_is_reused(monkeypatch, closed):
    def fstat(number):
        if number in closed:
            raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(system, "os", SimpleNamespace(fstat=fstat))
    with pytest.raises(UsageError, match="is closed, and this command speaks MCP there"):
        stdio.run_connect(Target.parse("https://mcp-echo-1.europe-west1.run.app"), None)


# --- loops, sockets, programs ---------------------------------------------------------------------------


def test_asyncio_is_used_without_uvloop(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert system.event_loop_runner() is asyncio.run


def test_an_event_loop_without_signal_handlers_is_supported():
    class Proactor:
        def add_signal_handler(self, number, call):
            raise NotImplementedError

    system.handle_signals(Proactor(), lambda: None)


def test_signals_stop_the_command_if_the_loop_supports_handlers():
    taken = {}

    class Unix:
        def add_signal_handler(self, number, call):
            taken[number] = call

    system.handle_signals(Unix(), print)
    assert taken == {signal.SIGTERM: print, signal.SIGINT: print}


def test_on_windows_the_proxys_port_is_exclusive(monkeypatch):
    done = []

    class Listener:
        def __getattr__(self, name):
            return lambda *arguments: done.append((name, *arguments))

    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(socket, "socket", lambda *_: Listener())
    system.listen(3000)
    assert done == [("setsockopt", socket.SOL_SOCKET, -5, 1), ("bind", ("127.0.0.1", 3000)), ("listen",)]


@pytest.mark.parametrize(
    ("platform", "text", "words"),
    [
        ("linux", "gcloud auth 'a b' c\\ d", ["gcloud", "auth", "a b", "c d"]),
        ("win32", 'C:\\bin\\gcloud.cmd auth "a b"', ["C:\\bin\\gcloud.cmd", "auth", "a b"]),
        ("win32", '"C:\\Program Files\\x.exe" --n', ["C:\\Program Files\\x.exe", "--n"]),
        ("darwin", "a # b", ["a", "#", "b"]),
    ],
)
def test_a_command_is_split_by_the_rules_of_the_systems_shell(platform, text, words):
    assert system.split_command(text, platform) == words


@given(st.lists(st.text(st.characters(codec="ascii"), min_size=1), min_size=1))
def test_on_posix_commands_are_split_as_by_shlex(words):
    text = system.join_command(words, "linux")
    assert system.split_command(text, "linux") == shlex.split(text) == words


def test_on_windows_a_printed_command_is_quoted():
    assert system.join_command(["cursor", "--file=C:\\my own.json"], "win32") == 'cursor "--file=C:\\my own.json"'


def test_a_program_is_found_by_its_short_name_and_its_text_is_utf_8(monkeypatch):
    requests = []
    monkeypatch.setattr(system.shutil, "which", lambda name: f"C:\\bin\\{name}.cmd")
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda argv, **options: requests.append((argv, options)))
    system.run_program(["gcloud", "version"], 3)
    ((argv, options),) = requests
    assert argv == ["C:\\bin\\gcloud.cmd", "version"]
    assert (options["encoding"], options["errors"], options["creationflags"]) == ("utf-8", "replace", 0x08000000)
    assert "shell" not in options


def test_an_error_of_an_http_library_is_not_blamed_on_the_output():
    assert terminal.os_error_text(OSError("404 Client Error: no such image")) == "404 Client Error: no such image."
