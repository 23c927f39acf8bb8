"""Finds Docker Engine, starts it if it is only installed, and installs it on Debian and Ubuntu as root."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.docker_api import DockerEngine, ReachableEngine
from mcpfleet_local_cloud.commands.setup.host import BackgroundProcess, Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock
from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts, NoEngineError, find_engine

# The longest start of `dockerd`: it takes 2 s on two idle cores, more while a compiler runs.
START_SECONDS = 90.0
_APT_SECONDS = 900.0
INSTALL_DOCKER = f"install Docker Engine (https://docs.docker.com/engine/install), then run {PROGRAM} again."

Connect = Callable[[EngineAddress], ReachableEngine]


def find_docker(host: Host, paths: Paths, step: Step, connect: Connect = DockerEngine.connect) -> ReachableEngine:
    """Return a Docker engine that answers; install or start one if needed.

    Raises:
        SetupError: There is none and it can't be installed or started, or this user has no access to it.
    """
    engine = reach_docker(host, connect)
    if engine is None:
        with cache_lock(paths.cache, "docker", lambda: step.progress("waiting for another setup that starts it")):
            engine = reach_docker(host, connect) or _install_and_start(host, paths, step, connect)
    return engine


def reach_docker(host: Host, connect: Connect = DockerEngine.connect) -> ReachableEngine | None:
    """Return the engine that the user configured, else the first that answers; None if none listens.

    Raises:
        SetupError: The engine cannot be used.
    """
    try:
        # For root, Docker is installed or started even if there is Podman, so Podman needs no message.
        return find_engine(host.environ, connect, podman=not host.is_root())
    except NoEngineError as error:
        raise SetupError(str(error), error.next_step) from error


def find_install_obstacle(host: Host) -> SetupError | None:
    """Return the error that explains why no engine can be installed or started here; None if one can."""
    if host.platform()[0] != "Linux":
        return SetupError(
            "Docker does not run on this machine.",
            f"start Docker Desktop (or install it: https://docs.docker.com/get-docker), then run {PROGRAM} again.",
        )
    if host.is_root():
        return None
    if host.which("dockerd"):
        return SetupError("Docker Engine is installed, but not running.", "type: sudo systemctl start docker")
    return SetupError("Docker is not installed, and this user may not install it.", INSTALL_DOCKER)


def report_engine(facts: EngineFacts, address: EngineAddress, step: Step) -> None:
    """Show which engine was found, and which features of containers it lacks."""
    machine = "" if facts.architecture == "amd64" else f", {facts.platform}"
    step.note(f"{facts} at {address}{machine}")
    if facts.limits_warning:
        step.print_lines(f"{facts}: {facts.limits_warning}")


def _install_and_start(host: Host, paths: Paths, step: Step, connect: Connect) -> ReachableEngine:
    if (obstacle := find_install_obstacle(host)) is not None:
        raise obstacle
    if host.which("dockerd") is None:
        install(host, step, ["docker.io"], INSTALL_DOCKER)
    return _start(host, paths, step, connect)


def _start(host: Host, paths: Paths, step: Step, connect: Connect) -> ReachableEngine:
    log = paths.cache / "docker" / "dockerd.log"
    step.progress("starting Docker Engine")
    process: BackgroundProcess | None = None
    if host.read(Path("/proc/1/comm")) == "systemd\n":
        started = host.run(["systemctl", "start", "docker"], timeout=START_SECONDS)
        if started.code != 0:
            raise SetupError(f"Docker Engine does not start:\n{started.tail()}", "type: journalctl -u docker -n 50")
    else:
        process = host.start([str(host.which("dockerd") or "dockerd")], log)
        (log.parent / "dockerd.pid").write_text(f"{process.pid}\n", encoding="utf-8")
    deadline = host.monotonic() + START_SECONDS
    while True:
        engine = reach_docker(host, connect)
        if engine is not None:
            return engine
        exit_code = process.exit_code() if process else None
        if exit_code is not None:
            raise SetupError(
                f"dockerd ended with code {exit_code}:\n{_last_lines(host, log)}",
                f"read {log}; a container needs --privileged to run Docker within. Else {INSTALL_DOCKER}",
            )
        if host.monotonic() >= deadline:
            raise SetupError(
                f"Docker Engine did not answer within {START_SECONDS:.0f} s of its start:\n{_last_lines(host, log)}",
                f"read {log}, then run {PROGRAM} again.",
            )
        host.sleep(0.2)


def _last_lines(host: Host, log: Path) -> str:
    return "\n".join((host.read(log) or "").strip().splitlines()[-6:])


def install(host: Host, step: Step, packages: Sequence[str], next_step: str) -> None:
    """Install packages of Debian or Ubuntu, as root.

    Args:
        host: The machine.
        step: The phase this belongs to.
        packages: The packages' names.
        next_step: The error's next step, for machines on which packages can't be installed.

    Raises:
        SetupError: It is another system, this user is not root, or apt-get failed.
    """
    names = " ".join(packages)
    if not _is_debian(host) or not host.is_root():
        raise SetupError(f"{names} is missing, and {PROGRAM} installs only on Debian and Ubuntu, as root.", next_step)
    step.progress(f"installing {names}")
    # apt's own lock is enough for all setups of this machine; with this option it waits and does not fail.
    options = ["-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=2"]
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C.UTF-8"}
    # The update may fail for one third-party source; only a failed installation is an error.
    host.run(["apt-get", *options, "update"], env=quiet, timeout=_APT_SECONDS)
    done = host.run(["apt-get", *options, "install", "-y", *packages], env=quiet, timeout=_APT_SECONDS)
    if done.code != 0:
        raise SetupError(
            f"apt-get could not install {names}:\n{done.tail()}",
            f"type: apt-get install {names}   and read its output; or {next_step}",
        )


def _is_debian(host: Host) -> bool:
    release = host.read(Path("/etc/os-release")) or ""
    values = re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)"?$', release, flags=re.MULTILINE)
    return any(word in {"debian", "ubuntu"} for value in values for word in value.split())
