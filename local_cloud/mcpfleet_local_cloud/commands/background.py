"""Runs the two background programs of a deployment: the local cloud, and the emulated Pulumi providers.

Both run as separate processes and are never imported; after a `kill -9` they are started again. A program whose code
has changed since it started is replaced. The local cloud outlives the command that starts it. The providers act with
the deployer's credentials for every process that may call them, so they end with the process that needs them: the
command that deploys, or the shell that has evaluated `./dev env`.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Literal, cast

import httpx2

from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.processes import Processes
from mcpfleet_local_cloud.commands.setup.locks import cache_lock

ProgramName = Literal["cloud", "plugins"]

DEFAULT_PORT: Final = 8470
DEFAULT_STACK: Final = "local"
_START_SECONDS: Final = 60.0
"""Seconds that a program gets to start; measured: 1.5 s on two idle cores."""


@dataclass(frozen=True, kw_only=True)
class CloudFolder:
    """A checkout folder: the paths, the port and the stack of one local cloud.

    Attributes:
        root: The checkout with the Pulumi program.
        state: The folder with all state of the local cloud and of its stack.
        port: The control plane's port on loopback.
        stack: The Pulumi stack that is, or will be, deployed there.
        config: The folder with Pulumi.yaml and the stack's config file. Default: *root*.
    """

    root: Path
    state: Path
    port: int = DEFAULT_PORT
    stack: str = DEFAULT_STACK
    config: Path | None = None

    @cached_property
    def project(self) -> str:
        """The project's name in Pulumi.yaml."""
        file = self.root / "Pulumi.yaml"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        named = re.search(r"^name:\s*['\"]?([\w.-]+)", text, re.MULTILINE)
        return named[1] if named else "mcpfleet"

    @property
    def cloud_state(self) -> Path:
        """The folder of the local cloud's own state."""
        return self.state / "cloud"

    @property
    def credentials(self) -> Path:
        """The folder of the credential files of the deployer and the users."""
        return self.state / "credentials"

    @property
    def url(self) -> str:
        """The control plane's base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def published_image_file(self) -> Path:
        """The file with the id of the base image that was pushed to the registry's public repository."""
        return self.cloud_state / "published"

    def log(self, name: str) -> Path:
        """The log file of one background program."""
        return self.state / "logs" / f"{name}.log"


@dataclass(frozen=True)
class RunningProgram:
    """A background program that is ready.

    Attributes:
        pid: Its process id.
        facts: The content of its ready file.
        started: Whether this call started it.
    """

    pid: int
    facts: dict[str, Any]
    started: bool


@dataclass(frozen=True, kw_only=True)
class Program:
    """One background program of a checkout folder.

    Attributes:
        kind: Which of the two programs it is.
        name: The beginning of its files' names.
        title: Its name in messages.
        ready_file: The JSON file that it writes when it is ready, with its process id and address.
        arguments: The arguments of the Python interpreter that runs it.
        marker: The argument that distinguishes its process from the same program of another checkout.
        is_answering: Whether it answers, by the content of its ready file.
        variable_prefixes: Prefixes of the environment variables that it reads at its start.
    """

    kind: ProgramName
    name: str
    title: str
    ready_file: Path
    arguments: list[str]
    marker: str
    is_answering: Callable[[dict[str, Any]], bool]
    variable_prefixes: tuple[str, ...] = ()


def describe_program(folder: CloudFolder, name: ProgramName, owner: int | None = None) -> Program:
    """Describe the program *name* of *folder*. *owner* is the process that needs the plugins, by default this one."""
    if name == "cloud":
        token = folder.cloud_state / "admin-token"
        serve = ["serve", "--state", str(folder.cloud_state), "--port", str(folder.port)]
        return Program(
            kind=name,
            name=name,
            title="local cloud",
            ready_file=folder.cloud_state / "cloud.json",
            arguments=["-m", "mcpfleet_local_cloud", *serve, "--credentials", str(folder.credentials)],
            marker=str(folder.cloud_state),
            # Without the token its admin API cannot be called; a new start writes it again.
            is_answering=lambda facts: (
                facts.get("url") == folder.url and token.exists() and is_cloud_answering(folder.url)
            ),
            variable_prefixes=("DOCKER_",),
        )
    owner_pid = owner or os.getpid()
    ready = folder.state / f"plugins-{owner_pid}.json"
    return Program(
        kind=name,
        name=f"{name}-{owner_pid}",
        title="emulated providers",
        ready_file=ready,
        arguments=["-m", "mcpfleet_local_cloud.plugins", "--ready-file", str(ready), "--until", str(owner_pid)],
        marker=str(ready),
        is_answering=_are_plugins_answering,
        variable_prefixes=("GOOGLE_", "DOCKER_", "PULUMI_GCP_"),
    )


class StartedProcess:
    """Starts a background process.

    Args:
        arguments: The arguments of the Python interpreter.
        folder: The working folder.
        environ: The whole environment.
        log: The file to which its output is appended.
    """

    def __init__(self, arguments: list[str], folder: Path, environ: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            # In a session of its own, so that Ctrl-C on the command that starts it does not end it.
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=folder,
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.pid: Final = self._process.pid

    def has_ended(self) -> bool:
        """Return whether the process has ended."""
        return self._process.poll() is not None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Supervisor:
    """Starts, finds and stops the background programs of *folder*.

    Attributes:
        folder: The checkout folder.
        processes: The processes of this machine.
        start: Starts a process, as `StartedProcess`.
        listens: Whether a program listens on a port.
        code: The folder of the programs' code: after a change of it, a program is restarted.
    """

    folder: CloudFolder
    processes: Processes = field(default_factory=Processes)
    start: Callable[[list[str], Path, Mapping[str, str], Path], StartedProcess] = StartedProcess
    listens: Callable[[int], bool] = _listens
    code: Path = Path(__file__).resolve().parents[1]

    def ensure(self, program: Program, environ: Mapping[str, str]) -> RunningProgram:
        """Return the running program; start or restart it if it does not run, does not answer or is out of date.

        Raises:
            SetupError: The program cannot start.
        """
        # Two concurrent commands start one program, not two.
        with cache_lock(self.folder.state, program.name, on_wait=lambda: None):
            version = {"version": _version(self.code, program, environ)}
            version_file = self._version_file(program)
            facts = self.find(program)
            if facts is not None:
                if _read_json(version_file) == version and program.is_answering(facts):
                    return RunningProgram(facts["pid"], facts, started=False)
                self.processes.terminate(facts["pid"])
            program.ready_file.unlink(missing_ok=True)
            if program.kind == "cloud" and self.listens(self.folder.port):
                raise _port_in_use_error(self.folder.port)
            started = self._start(program, environ)
            version_file.write_text(json.dumps(version), encoding="utf-8")
            return started

    def find(self, program: Program) -> dict[str, Any] | None:
        """Read the program's ready file; None if the program does not run."""
        facts = _read_json(program.ready_file)
        if facts is None or not isinstance(facts.get("pid"), int):
            return None
        module = program.arguments[1]
        return facts if self.processes.is_running(facts["pid"], [module, program.marker]) else None

    def stop(self, program: Program) -> None:
        """Stop the program, if it runs."""
        facts = self.find(program)
        if facts is not None:
            self.processes.terminate(facts["pid"])
        program.ready_file.unlink(missing_ok=True)
        self._version_file(program).unlink(missing_ok=True)

    def _version_file(self, program: Program) -> Path:
        return self.folder.state / f"{program.name}.version.json"

    def _start(self, program: Program, environ: Mapping[str, str]) -> RunningProgram:
        log = self.folder.log(program.kind)
        log.parent.mkdir(parents=True, exist_ok=True)
        log_offset = log.stat().st_size if log.exists() else 0
        process = self.start(program.arguments, self.folder.root, environ, log)
        deadline = self.processes.clock() + _START_SECONDS
        while self.processes.clock() < deadline:
            facts = _read_json(program.ready_file)
            if facts is not None and facts.get("pid") == process.pid and program.is_answering(facts):
                return RunningProgram(process.pid, facts, started=True)
            if process.has_ended():
                raise _start_error(program, log, log_offset)
            self.processes.sleep(0.02)
        self.processes.terminate(process.pid)
        raise SetupError(
            f"The {program.title} did not answer within {_START_SECONDS:.0f} s.",
            f"read its log: {log}, then run the command again.",
        )


def ensure_cloud(folder: CloudFolder, environ: Mapping[str, str]) -> RunningProgram:
    """Return the local cloud of *folder*; start it if needed.

    Raises:
        SetupError: It cannot start; the message is the program's own.
    """
    return Supervisor(folder).ensure(describe_program(folder, "cloud"), environ)


def ensure_plugins(folder: CloudFolder, environ: Mapping[str, str], owner: int | None = None) -> RunningProgram:
    """Return the emulated providers, which end with the process *owner*, by default this one; start them if needed.

    Raises:
        SetupError: They cannot start; the message is the program's own.
    """
    return Supervisor(folder).ensure(describe_program(folder, "plugins", owner), environ)


def stop_plugins(folder: CloudFolder) -> None:
    """Stop the emulated providers of this process."""
    Supervisor(folder).stop(describe_program(folder, "plugins"))


def stop_all(folder: CloudFolder) -> None:
    """Stop all background programs of *folder* that run."""
    for program in (*_list_plugin_programs(folder), describe_program(folder, "cloud")):
        Supervisor(folder).stop(program)


def find_running(folder: CloudFolder, name: ProgramName) -> dict[str, Any] | None:
    """Read the ready file of the background program *name*; None if the program does not run."""
    programs = _list_plugin_programs(folder) if name == "plugins" else [describe_program(folder, name)]
    return next((facts for program in programs if (facts := Supervisor(folder).find(program)) is not None), None)


def find_shell(pid: int) -> int:
    """Find the shell in which the command *pid* runs: the leader of its session.

    For a command that leads a session of its own, it is the parent.
    """
    leader = os.getsid(pid)
    return os.getppid() if leader in {0, pid} or not Processes().is_alive(leader) else leader


def _list_plugin_programs(folder: CloudFolder) -> list[Program]:
    pids = [file.stem.removeprefix("plugins-") for file in folder.state.glob("plugins-*.json")]
    return [describe_program(folder, "plugins", int(pid)) for pid in pids if pid.isascii() and pid.isdecimal()]


def read_port(state: Path) -> int | None:
    """Read the port that the local cloud in *state* (a `CloudFolder.state`) has, or had when it was killed."""
    port = (_read_json(state / "cloud" / "cloud.json") or {}).get("port")
    return port if isinstance(port, int) else None


def is_cloud_answering(url: str) -> bool:
    """Return whether a local cloud answers at *url*."""
    try:
        return httpx2.get(f"{url}/_local/health", timeout=2, trust_env=False).is_success
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return False


def _are_plugins_answering(facts: dict[str, Any]) -> bool:
    ports = [pair.rpartition(":")[2] for pair in str(facts.get("PULUMI_DEBUG_PROVIDERS", "")).split(",")]
    return all(port.isdecimal() and _listens(int(port)) for port in ports)


def _port_in_use_error(port: int) -> SetupError:
    other = port + 1 if port < 65535 else port - 1
    if is_cloud_answering(f"http://127.0.0.1:{port}"):
        return SetupError(
            f"Port {port} on 127.0.0.1 is in use by the local cloud of another checkout.",
            f"run {PROGRAM} down there, or choose another port here: MCPFLEET_PORT={other} {PROGRAM} up",
        )
    return SetupError(
        f"Port {port} on 127.0.0.1, which the local cloud needs, is in use by another program.",
        f"end that program (ss -ltnp 'sport = :{port}', or lsof -i :{port}, names it), or choose another port: "
        f"MCPFLEET_PORT={other} {PROGRAM} up",
    )


def _start_error(program: Program, log: Path, log_offset: int) -> SetupError:
    with log.open("rb") as file:
        file.seek(log_offset)
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    # The program prints a SetupError as two lines; anything else is a bug, and its last line is the most useful one.
    messages = {key: line for line in lines for key in ("error:", "next:") if line.startswith(key)}
    if "error:" in messages:
        return SetupError(
            messages["error:"].removeprefix("error:").strip(),
            messages.get("next:", f"next: read {log}.").removeprefix("next:").strip(),
        )
    last = lines[-1] if lines else "it wrote nothing"
    return SetupError(f"The {program.title} ended while it started: {last}", f"read its log: {log}.")


def _version(code: Path, program: Program, environ: Mapping[str, str]) -> str:
    """A hash of all that the program's behaviour depends on: code, arguments and environment variables."""
    digest = sha256(json.dumps(program.arguments).encode())
    for path in sorted(code.rglob("*.py")):
        status = path.stat()
        digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns};".encode())
    if program.variable_prefixes:
        variables = {key: value for key, value in environ.items() if key.startswith(program.variable_prefixes)}
        digest.update(json.dumps(variables, sort_keys=True).encode())
    return digest.hexdigest()


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise SetupError(
            f"{path} cannot be read: {error.strerror}.",
            "run the command as the user who deployed here, or give that user's files to this one (sudo chown -R).",
        ) from None
    return cast("dict[str, Any]", content) if isinstance(content, dict) else None
