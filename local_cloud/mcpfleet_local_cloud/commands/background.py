"""The two programs that run behind a deployment: the local cloud, and the emulated Pulumi providers.

Both are started as processes of their own and never imported; a `kill -9` of either is met by starting it again. A
program whose code has changed since it started is replaced. The cloud outlives the command that starts it. The plugins
act by the deployer's credentials for whoever may call them, so they end with the process that needs them: the command
that deploys, or the shell that has evaluated `./dev env`.
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

Name = Literal["cloud", "plugins"]

DEFAULT_PORT: Final = 8470
DEFAULT_STACK: Final = "local"
_PATIENCE: Final = 60.0
"""Seconds that a program may take until it answers; measured: 1.5 s on two idle cores."""


@dataclass(frozen=True, kw_only=True)
class CloudFolder:
    """Where one local cloud lives: the checkout's, or a test's own.

    Attributes:
        root: The checkout whose program is deployed.
        state: The folder that holds everything of this cloud and of its stack.
        port: The control plane's port on loopback.
        stack: The Pulumi stack that is deployed there, or is to be.
    """

    root: Path
    state: Path
    port: int = DEFAULT_PORT
    stack: str = DEFAULT_STACK

    @cached_property
    def project(self) -> str:
        """The name in Pulumi.yaml."""
        file = self.root / "Pulumi.yaml"
        text = file.read_text(encoding="utf-8") if file.exists() else ""
        named = re.search(r"^name:\s*['\"]?([\w.-]+)", text, re.MULTILINE)
        return named[1] if named else "mcpfleet"

    @property
    def cloud_state(self) -> Path:
        """The local cloud's own folder."""
        return self.state / "cloud"

    @property
    def credentials(self) -> Path:
        """The key files of the deployer and of the people."""
        return self.state / "credentials"

    @property
    def url(self) -> str:
        """The control plane."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def published(self) -> Path:
        """Names the base image whose layers the registry's public repository holds."""
        return self.cloud_state / "published"

    def log(self, name: str) -> Path:
        """The log file of one background program."""
        return self.state / "logs" / f"{name}.log"


@dataclass(frozen=True)
class Running:
    """A background program that answers.

    Attributes:
        pid: Its process.
        facts: What it wrote about itself when it was ready.
        started: Whether this call started it.
    """

    pid: int
    facts: dict[str, Any]
    started: bool


@dataclass(frozen=True, kw_only=True)
class Program:
    """One background program of a place.

    Attributes:
        kind: Which of the two.
        name: What its files are named after.
        title: What a person calls it.
        facts: The file in which it says that it is ready, with its process and its address.
        arguments: What Python is given to run it.
        mark: The argument by which its process is told from that of another checkout.
        answers: Whether it answers, by its facts.
        configured_by: The beginnings of the names of the variables that it reads once, when it starts.
    """

    kind: Name
    name: str
    title: str
    facts: Path
    arguments: list[str]
    mark: str
    answers: Callable[[dict[str, Any]], bool]
    configured_by: tuple[str, ...] = ()


def program(place: CloudFolder, name: Name, until: int | None = None) -> Program:
    """The program *name* of *place*; *until* is the process that needs the plugins, by default this one."""
    if name == "cloud":
        token = place.cloud_state / "admin-token"
        serve = ["serve", "--state", str(place.cloud_state), "--port", str(place.port)]
        return Program(
            kind=name,
            name=name,
            title="local cloud",
            facts=place.cloud_state / "cloud.json",
            arguments=["-m", "mcpfleet_local_cloud", *serve, "--credentials", str(place.credentials)],
            mark=str(place.cloud_state),
            # Without its token it cannot be asked anything; a new start writes it again.
            answers=lambda facts: facts.get("url") == place.url and token.exists() and cloud_answers(place.url),
            configured_by=("DOCKER_",),
        )
    needed_by = until or os.getpid()
    ready = place.state / f"plugins-{needed_by}.json"
    return Program(
        kind=name,
        name=f"{name}-{needed_by}",
        title="emulated providers",
        facts=ready,
        arguments=["-m", "mcpfleet_local_cloud.plugins", "--ready-file", str(ready), "--until", str(needed_by)],
        mark=str(ready),
        answers=_plugins_answer,
        configured_by=("GOOGLE_", "DOCKER_", "PULUMI_GCP_"),
    )


class Started:
    """A process that was just started.

    Args:
        arguments: What Python is given.
        folder: Where it runs.
        environ: All of its environment.
        log: Where its output is appended.
    """

    def __init__(self, arguments: list[str], folder: Path, environ: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            # A session of its own: Ctrl-C on the command that starts it does not end it.
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

    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Keeper:
    """Starts, finds and ends the programs of *place*.

    Attributes:
        place: Whose programs.
        processes: The processes of this machine.
        start: Starts a program, as `Started`.
        listens: Whether somebody listens at a port.
        code: The folder of the programs' code: a program whose code was edited is started anew.
    """

    place: CloudFolder
    processes: Processes = field(default_factory=Processes)
    start: Callable[[list[str], Path, Mapping[str, str], Path], Started] = Started
    listens: Callable[[int], bool] = _listens
    code: Path = Path(__file__).resolve().parents[1]

    def ensure(self, wanted: Program, environ: Mapping[str, str]) -> Running:
        """Return the program, started where it does not run as it should.

        Raises:
            SetupError: It cannot start.
        """
        # Two commands at once start one program, not two.
        with cache_lock(self.place.state, wanted.name, waiting=lambda: None):
            version = {"version": _version(self.code, wanted, environ)}
            version_file = self._version_file(wanted)
            found = self.running(wanted)
            if found is not None:
                if _read(version_file) == version and wanted.answers(found):
                    return Running(found["pid"], found, started=False)
                self.processes.end(found["pid"])
            wanted.facts.unlink(missing_ok=True)
            if wanted.kind == "cloud" and self.listens(self.place.port):
                raise _port_taken(self.place.port)
            running = self._started(wanted, environ)
            version_file.write_text(json.dumps(version), encoding="utf-8")
            return running

    def running(self, wanted: Program) -> dict[str, Any] | None:
        """What the program wrote about itself, or None where it does not run."""
        found = _read(wanted.facts)
        if found is None or not isinstance(found.get("pid"), int):
            return None
        module = wanted.arguments[1]
        return found if self.processes.runs(found["pid"], [module, wanted.mark]) else None

    def stop(self, wanted: Program) -> None:
        """End the program; one that does not run is no mistake."""
        found = self.running(wanted)
        if found is not None:
            self.processes.end(found["pid"])
        wanted.facts.unlink(missing_ok=True)
        self._version_file(wanted).unlink(missing_ok=True)

    def _version_file(self, wanted: Program) -> Path:
        return self.place.state / f"{wanted.name}.version.json"

    def _started(self, wanted: Program, environ: Mapping[str, str]) -> Running:
        log = self.place.log(wanted.kind)
        log.parent.mkdir(parents=True, exist_ok=True)
        began = log.stat().st_size if log.exists() else 0
        process = self.start(wanted.arguments, self.place.root, environ, log)
        deadline = self.processes.clock() + _PATIENCE
        while self.processes.clock() < deadline:
            found = _read(wanted.facts)
            if found is not None and found.get("pid") == process.pid and wanted.answers(found):
                return Running(process.pid, found, started=True)
            if process.ended():
                raise _did_not_start(wanted, log, began)
            self.processes.sleep(0.02)
        self.processes.end(process.pid)
        raise SetupError(
            f"The {wanted.title} did not answer within {_PATIENCE:.0f} s.",
            f"read its log: {log}, then run the command again.",
        )


def ensure_cloud(place: CloudFolder, environ: Mapping[str, str]) -> Running:
    """Return the place's local cloud, started where it does not run.

    Raises:
        SetupError: It cannot start; the message is its own.
    """
    return Keeper(place).ensure(program(place, "cloud"), environ)


def ensure_plugins(place: CloudFolder, environ: Mapping[str, str], until: int | None = None) -> Running:
    """Return the emulated providers that end with the process *until*, by default this one; started where needed.

    Raises:
        SetupError: They cannot start; the message is their own.
    """
    return Keeper(place).ensure(program(place, "plugins", until), environ)


def stop_plugins(place: CloudFolder) -> None:
    """End the plugins that this process needed."""
    Keeper(place).stop(program(place, "plugins"))


def stop(place: CloudFolder) -> None:
    """End the place's background programs; those that do not run are no mistake."""
    for one in (*_every_plugins(place), program(place, "cloud")):
        Keeper(place).stop(one)


def running(place: CloudFolder, name: Name) -> dict[str, Any] | None:
    """What the background program *name* wrote about itself, or None where it does not run."""
    programs = _every_plugins(place) if name == "plugins" else [program(place, name)]
    return next((found for one in programs if (found := Keeper(place).running(one)) is not None), None)


def shell_of(pid: int) -> int:
    """The process whose life is that of the shell in which the command *pid* runs: its session's first.

    That of a command that began a session of its own is its parent.
    """
    leader = os.getsid(pid)
    return os.getppid() if leader in {0, pid} or not Processes().alive(leader) else leader


def _every_plugins(place: CloudFolder) -> list[Program]:
    numbers = [file.stem.removeprefix("plugins-") for file in place.state.glob("plugins-*.json")]
    return [program(place, "plugins", int(number)) for number in numbers if number.isascii() and number.isdecimal()]


def port_of(state: Path) -> int | None:
    """The port that the local cloud in *state* (a `Place.state`) has, or had when it was killed."""
    port = (_read(state / "cloud" / "cloud.json") or {}).get("port")
    return port if isinstance(port, int) else None


def cloud_answers(url: str) -> bool:
    """Whether a local cloud answers at *url*."""
    try:
        return httpx2.get(f"{url}/_local/health", timeout=2, trust_env=False).is_success
    except (httpx2.HTTPError, httpx2.InvalidURL):
        return False


def _plugins_answer(facts: dict[str, Any]) -> bool:
    ports = [pair.rpartition(":")[2] for pair in str(facts.get("PULUMI_DEBUG_PROVIDERS", "")).split(",")]
    return all(port.isdecimal() and _listens(int(port)) for port in ports)


def _port_taken(port: int) -> SetupError:
    other = port + 1 if port < 65535 else port - 1
    if cloud_answers(f"http://127.0.0.1:{port}"):
        return SetupError(
            f"Port {port} on 127.0.0.1 is taken by the local cloud of another checkout.",
            f"run {PROGRAM} down there, or choose another port here: MCPFLEET_PORT={other} {PROGRAM} up",
        )
    return SetupError(
        f"Port {port} on 127.0.0.1 is taken by another program; the local cloud listens there.",
        f"end that program (ss -ltnp 'sport = :{port}', or lsof -i :{port}, names it), or choose another port: "
        f"MCPFLEET_PORT={other} {PROGRAM} up",
    )


def _did_not_start(wanted: Program, log: Path, began: int) -> SetupError:
    with log.open("rb") as written:
        written.seek(began)
        lines = [line.strip() for line in written.read().decode(errors="replace").splitlines() if line.strip()]
    # It says what is wrong and what to do as two lines; anything else is a bug, and its last line tells most.
    said = {key: line for line in lines for key in ("error:", "next:") if line.startswith(key)}
    if "error:" in said:
        return SetupError(
            said["error:"].removeprefix("error:").strip(),
            said.get("next:", f"next: read {log}.").removeprefix("next:").strip(),
        )
    last = lines[-1] if lines else "it wrote nothing"
    return SetupError(f"The {wanted.title} ended while it started: {last}", f"read its log: {log}.")


def _version(code: Path, wanted: Program, environ: Mapping[str, str]) -> str:
    """What the program's behaviour depends on: its code, its arguments, and the environment that configures it."""
    digest = sha256(json.dumps(wanted.arguments).encode())
    for path in sorted(code.rglob("*.py")):
        status = path.stat()
        digest.update(f"{path}:{status.st_size}:{status.st_mtime_ns};".encode())
    if wanted.configured_by:
        configuring = {key: value for key, value in environ.items() if key.startswith(wanted.configured_by)}
        digest.update(json.dumps(configuring, sort_keys=True).encode())
    return digest.hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found: object = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    except OSError as error:
        raise SetupError(
            f"{path} cannot be read: {error.strerror}.",
            "run the command as the user who deployed here, or give that user's files to this one (sudo chown -R).",
        ) from None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
