"""The facts about a Docker engine: its product, its platform, and the limits of containers that it supports."""

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
"""The limited resource → the arguments of the SDK's `containers.create` that limit it."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a container that the engine supports.

    Attributes:
        memory: Whether it can limit memory.
        cpu: Whether it can limit CPU time.
        processes: Whether it can limit the number of processes.
    """

    memory: bool = True
    cpu: bool = True
    processes: bool = True

    @property
    def missing(self) -> list[str]:
        """The names of the unsupported limits."""
        supported = {"memory": self.memory, "cpu": self.cpu, "processes": self.processes}
        return [name for name, is_supported in supported.items() if not is_supported]

    def without_unsupported(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `containers.create` without unsupported limits, which the engine would reject or ignore."""
        dropped = {argument for name in self.missing for argument in _LIMITED_BY[name]}
        return {argument: value for argument, value in spec.items() if argument not in dropped}


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """The facts about a Docker engine.

    Attributes:
        kind: The product: `Docker Engine`, `Docker Desktop`, `Colima`, `OrbStack`, `Rancher Desktop`, `Podman`.
        version: Its version.
        identity: A text that differs between the engines of a machine.
        architecture: The architecture of its images, as images name it: `amd64`, `arm64`.
        is_rootless: Whether it runs as an ordinary user.
        cpus: The number of CPUs that containers can use.
        root_folder: The folder of its images, on the engine's machine.
        limits: The limits of containers that it supports.
    """

    kind: str = "Docker Engine"
    version: str = ""
    identity: str = ""
    architecture: str = "amd64"
    is_rootless: bool = False
    cpus: float = 1.0
    root_folder: Path = Path("/var/lib/docker")
    limits: Limits = Limits()

    @classmethod
    def from_api(cls, version: object, info: object) -> "EngineFacts":
        """Parse the responses of the API's `/version` and `/info`; missing values get the most common value."""
        version_table, info_table = _table(version), _table(info)
        folder = _text(info_table, "DockerRootDir") or "/var/lib/docker"
        machine = _text(info_table, "Architecture") or "x86_64"
        cpus = info_table.get("NCPU")
        return cls(
            kind=_kind(version_table, info_table),
            version=_text(version_table, "Version") or _text(info_table, "ServerVersion"),
            # Up to Docker 20.10, engines that share /etc/docker have the same ID, but never the same folder.
            identity=f"{_text(info_table, 'ID')} {folder}",
            architecture=architecture_of(machine),
            is_rootless=any("name=rootless" in str(option) for option in _list(info_table.get("SecurityOptions"))),
            cpus=float(cpus) if isinstance(cpus, int) and 0 < cpus < 2**16 else 1.0,
            root_folder=Path(folder.replace("\0", "")),
            limits=Limits(
                memory=info_table.get("MemoryLimit") is not False,
                # Both are needed for what the API calls NanoCpus.
                cpu=info_table.get("CpuCfsQuota") is not False and info_table.get("CpuCfsPeriod") is not False,
                processes=info_table.get("PidsLimit") is not False,
            ),
        )

    @property
    def platform(self) -> str:
        """The platform of its images, as the docker command names it."""
        return f"linux/{self.architecture}"

    def __str__(self) -> str:
        return " ".join([self.kind, self.version, *(["(rootless)"] if self.is_rootless else [])])

    @property
    def limits_warning(self) -> str:
        """A warning about unsupported limits and their effects; empty if all limits are supported."""
        missing = self.limits.missing
        if not missing:
            return ""
        effects = {
            "memory": "no server is ended for using more memory than the fleet gives it",
            "cpu": "a server may use every CPU",
            "processes": "a server that starts processes without end can exhaust the machine's",
        }
        reason = " (rootless Docker has them on cgroup v2 alone)" if self.is_rootless else ""
        return (
            f"it cannot limit containers' {_join(missing)}{reason}: {_join([effects[name] for name in missing])}. "
            "Servers run without these limits."
        )


def architecture_of(machine: str) -> str:
    """Convert the kernel's name of an architecture to its name in images."""
    return _ARCHITECTURES.get(machine, machine)


def _kind(version: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    components = [_text(_table(component), "Name") for component in _list(version.get("Components"))]
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


def _join(words: list[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key)
    return value if isinstance(value, str) else ""


def _table(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
