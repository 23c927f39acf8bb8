"""What a Docker Engine says of itself: which it is, for which machine, and which limits it can hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
"""The kernel's name → the name in an image."""

_LIMITED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "memory": ("mem_limit", "memswap_limit"),
    "cpu": ("nano_cpus",),
    "processes": ("pids_limit",),
}
"""What is limited → the arguments of the SDK's `containers.create` that limit it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which limits of a container the engine can hold.

    Attributes:
        memory: Of memory.
        cpu: Of CPU time.
        processes: Of the number of processes.
    """

    memory: bool = True
    cpu: bool = True
    processes: bool = True

    @property
    def lacking(self) -> list[str]:
        """The names of those that it cannot."""
        held = {"memory": self.memory, "cpu": self.cpu, "processes": self.processes}
        return [name for name, there in held.items() if not there]

    def kept(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `containers.create`, without the limits that the engine would refuse or drop."""
        dropped = {argument for name in self.lacking for argument in _LIMITED_BY[name]}
        return {argument: value for argument, value in spec.items() if argument not in dropped}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A Docker Engine.

    Attributes:
        kind: What its users call it: `Docker Engine`, `Docker Desktop`, `Colima`, `OrbStack`, `Rancher Desktop`,
            `Podman`.
        version: Its version.
        identity: Tells it from every other engine of this machine.
        architecture: For which machine its images are, as images name it: `amd64`, `arm64`.
        rootless: Whether it runs as an ordinary user.
        cpus: How many CPUs it has to give.
        root_folder: Where it keeps images; on another machine if it runs there.
        limits: Which limits it can hold.
    """

    kind: str = "Docker Engine"
    version: str = ""
    identity: str = ""
    architecture: str = "amd64"
    rootless: bool = False
    cpus: float = 1.0
    root_folder: Path = Path("/var/lib/docker")
    limits: Limits = Limits()

    @classmethod
    def of(cls, version: object, info: object) -> "Facts":
        """Read the answers of the API's `/version` and `/info`; what is missing there has the value of most engines."""
        told, said = _table(version), _table(info)
        folder = _text(said, "DockerRootDir") or "/var/lib/docker"
        machine = _text(said, "Architecture") or "x86_64"
        cpus = said.get("NCPU")
        return cls(
            kind=_kind(told, said),
            version=_text(told, "Version") or _text(said, "ServerVersion"),
            # Engines that share /etc/docker have one ID up to Docker 20.10, but never one folder.
            identity=f"{_text(said, 'ID')} {folder}",
            architecture=architecture_of(machine),
            rootless=any("name=rootless" in str(one) for one in _list(said.get("SecurityOptions"))),
            cpus=float(cpus) if isinstance(cpus, int) and 0 < cpus < 2**16 else 1.0,
            root_folder=Path(folder.replace("\0", "")),
            limits=Limits(
                memory=said.get("MemoryLimit") is not False,
                # Both are needed for what the API calls NanoCpus.
                cpu=said.get("CpuCfsQuota") is not False and said.get("CpuCfsPeriod") is not False,
                processes=said.get("PidsLimit") is not False,
            ),
        )

    @property
    def platform(self) -> str:
        """The platform of its images, as the docker command has it."""
        return f"linux/{self.architecture}"

    def __str__(self) -> str:
        return " ".join([self.kind, self.version, *(["(rootless)"] if self.rootless else [])])

    @property
    def lacks(self) -> str:
        """What it cannot limit and what follows from that, in a sentence; empty where it lacks nothing."""
        lacking = self.limits.lacking
        if not lacking:
            return ""
        follows = {
            "memory": "no server is ended for using more memory than the fleet gives it",
            "cpu": "a server may use every CPU",
            "processes": "one that starts processes without end takes the machine's last",
        }
        why = " (rootless Docker has them on cgroup v2 alone)" if self.rootless else ""
        return (
            f"it cannot limit containers' {_and(lacking)}{why}: {_and([follows[one] for one in lacking])}. "
            "Servers run without these limits."
        )


def architecture_of(machine: str) -> str:
    """The kernel's name of a machine, as the name of it in an image."""
    return _ARCHITECTURES.get(machine, machine)


def _kind(version: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    components = [_text(_table(one), "Name") for one in _list(version.get("Components"))]
    if any(name.startswith("Podman") for name in components):
        return "Podman"
    system, name = _text(info, "OperatingSystem"), _text(info, "Name")
    if system.startswith("Docker Desktop"):
        return "Docker Desktop"
    if system.startswith("Rancher Desktop") or "rancher-desktop" in name:
        return "Rancher Desktop"
    if system == "OrbStack" or name == "orbstack":
        return "OrbStack"
    return "Colima" if name.startswith("colima") else "Docker Engine"


def _and(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _text(table: Mapping[str, Any], key: str) -> str:
    found = table.get(key)
    return found if isinstance(found, str) else ""


def _table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
