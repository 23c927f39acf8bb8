"""Finds Docker Engine, starts it where it is only installed, installs it on Debian and Ubuntu as root."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mcpfleet_local_cloud.commands.paths import PROGRAM, Paths
from mcpfleet_local_cloud.commands.phases import SetupError, Step
from mcpfleet_local_cloud.commands.setup.engine import DockerEngine, ReachableEngine
from mcpfleet_local_cloud.commands.setup.host import Background, Host
from mcpfleet_local_cloud.commands.setup.locks import cache_lock
from mcpfleet_local_cloud.docker_engine import Address, Facts, NoEngineError, reach

# From `dockerd` to its first answer: 2 s on two idle cores, more beside a compiler.
START_SECONDS = 90.0
_APT_SECONDS = 900.0
INSTALL_DOCKER = f"install Docker Engine (https://docs.docker.com/engine/install), then run {PROGRAM} again."

Connect = Callable[[Address], ReachableEngine]


def find_docker(host: Host, paths: Paths, step: Step, connect: Connect = DockerEngine.connect) -> ReachableEngine:
    """Return a Docker Engine that answers.

    Raises:
        SetupError: There is none and we can't install or start one, or we may not talk to it.
    """
    engine = reach_docker(host, connect)
    if engine is None:
        with cache_lock(paths.cache, "docker", lambda: step.progress("another setup is at it; waiting")):
            engine = reach_docker(host, connect) or _bring_up(host, paths, step, connect)
    return engine


def reach_docker(host: Host, connect: Connect = DockerEngine.connect) -> ReachableEngine | None:
    """Return the engine that the user means, else the first that answers; None where nobody listens.

    Raises:
        SetupError: The engine cannot be used.
    """
    try:
        # Root gets Docker installed or started beside Podman, and so does not have to hear of it.
        return reach(host.environ, connect, podman=not host.is_root())
    except NoEngineError as error:
        raise SetupError(str(error), error.next_step) from error


def cannot_bring_up(host: Host) -> SetupError | None:
    """Return why no engine can be installed or started here, None where one can."""
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


def tell(facts: Facts, address: Address, step: Step) -> None:
    """Say which engine was found, and what its servers have to do without."""
    machine = "" if facts.architecture == "amd64" else f", {facts.platform}"
    step.note(f"{facts} at {address}{machine}")
    if facts.lacks:
        step.say(f"{facts}: {facts.lacks}")


def _bring_up(host: Host, paths: Paths, step: Step, connect: Connect) -> ReachableEngine:
    if (why := cannot_bring_up(host)) is not None:
        raise why
    if host.which("dockerd") is None:
        install(host, step, ["docker.io"], INSTALL_DOCKER)
    return _start(host, paths, step, connect)


def _start(host: Host, paths: Paths, step: Step, connect: Connect) -> ReachableEngine:
    log = paths.cache / "docker" / "dockerd.log"
    step.progress("starting it")
    process: Background | None = None
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
        ended = process.ended() if process else None
        if ended is not None:
            raise SetupError(
                f"dockerd ended with code {ended}:\n{_last_lines(host, log)}",
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


def install(host: Host, step: Step, packages: Sequence[str], otherwise: str) -> None:
    """Install packages of Debian or Ubuntu, as root.

    Args:
        host: The machine.
        step: The phase this belongs to.
        packages: What to install.
        otherwise: The next step for a user whose machine we can't install on.

    Raises:
        SetupError: It is another system, we are not root, or apt-get failed.
    """
    names = " ".join(packages)
    if not _is_debian(host) or not host.is_root():
        raise SetupError(f"{names} is missing, and {PROGRAM} installs only on Debian and Ubuntu, as root.", otherwise)
    step.progress(f"installing {names}")
    # One lock for all setups of this machine, apt's own; it waits rather than fails.
    options = ["-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=2"]
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_MODE": "l", "LC_ALL": "C.UTF-8"}
    # An update that fails for one foreign source is no reason to stop: the installation decides.
    host.run(["apt-get", *options, "update"], env=quiet, timeout=_APT_SECONDS)
    done = host.run(["apt-get", *options, "install", "-y", *packages], env=quiet, timeout=_APT_SECONDS)
    if done.code != 0:
        raise SetupError(
            f"apt-get could not install {names}:\n{done.tail()}",
            f"type: apt-get install {names}   and see what it says; or {otherwise}",
        )


def _is_debian(host: Host) -> bool:
    release = host.read(Path("/etc/os-release")) or ""
    values = re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)"?$', release, flags=re.MULTILINE)
    return any(word in {"debian", "ubuntu"} for value in values for word in value.split())
