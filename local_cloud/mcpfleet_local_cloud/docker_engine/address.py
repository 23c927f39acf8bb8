"""Lists the addresses at which a Docker engine may answer.

The order is that of the docker command: DOCKER_HOST, then DOCKER_CONTEXT, then the current context of its config file.
If none of them is set, the default sockets. Contexts are read here, because the SDK's `docker.context` falls back to
the default for a missing one, and reads the working folder if there is no config file.
"""

import hashlib
import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

_OTHER_MACHINE: Final = (
    "the local cloud is on this machine and needs an engine whose published ports arrive at this machine's 127.0.0.1"
)


class AddressError(Exception):
    """No engine can be used at the configured address; the text has the cause, *next_step* what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


@dataclass(frozen=True, kw_only=True)
class EngineAddress:
    """The address of a Docker engine.

    Attributes:
        host: The address in the format of DOCKER_HOST.
        chosen_by: The setting that names it, for messages: `DOCKER_HOST`, `the Docker context colima`. Empty for a
            default socket.
        certificates: The folder with `ca.pem`, `cert.pem` and `key.pem` for TLS; None: without TLS, or without these.
        verify: Whether the engine's certificate is verified.
    """

    host: str
    chosen_by: str = ""
    certificates: Path | None = None
    verify: bool = False

    def __str__(self) -> str:
        return f"{self.host} ({self.chosen_by})" if self.chosen_by else self.host

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which programs find this engine and no other."""
        return {
            "DOCKER_HOST": self.host,
            "DOCKER_CONTEXT": "",
            "DOCKER_TLS_VERIFY": "1" if self.verify else "",
            "DOCKER_CERT_PATH": str(self.certificates or ""),
        }

    @property
    def socket(self) -> Path | None:
        """The path of the socket; None if the address is not a socket."""
        return Path(self.host.removeprefix("unix://")) if self.host.startswith("unix://") else None

    @property
    def alternative(self) -> str:
        """The command with which the user can choose another engine."""
        if self.chosen_by == "DOCKER_HOST":
            return "unset DOCKER_HOST"
        return "docker context use default" if self.chosen_by else "set DOCKER_HOST"


def list_addresses(environ: Mapping[str, str]) -> list[EngineAddress]:
    """List the addresses to try, in this order; only one if the user configured it.

    Raises:
        AddressError: The configured one cannot be used: an unknown context, an engine of another machine.
    """
    configured = _find_configured(environ)
    if configured is None:
        return [EngineAddress(host=f"unix://{path}") for path in default_sockets(environ)]
    _check_is_local(configured)
    return [configured]


def default_sockets(environ: Mapping[str, str]) -> list[Path]:
    """The sockets on which engines listen by default; the machine's before the user's.

    Docker Engine, rootless Docker, Docker Desktop (macOS, Linux), OrbStack, Rancher Desktop, Colima; last Podman, so
    that a user who has only Podman gets a message about it.
    """
    sockets = [Path("/var/run/docker.sock")]
    if home := environ.get("HOME"):
        home_folder = Path(home)
        runtime = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
        colima = Path(environ.get("COLIMA_HOME") or home_folder / ".colima")
        sockets += [runtime / "docker.sock"]
        sockets += [
            home_folder / relative / "docker.sock"
            for relative in (".docker/run", ".docker/desktop", ".orbstack/run", ".rd")
        ]
        sockets += [colima / "docker.sock", colima / "default/docker.sock", *sorted(colima.glob("*/docker.sock"))]
        sockets += [home_folder / ".config/colima/default/docker.sock"]
        sockets += [runtime / "podman/podman.sock", home_folder / ".local/share/containers/podman/machine/podman.sock"]
    return list(dict.fromkeys(sockets))


def is_podman_socket(address: EngineAddress) -> bool:
    """Return whether the address is a default socket of Podman."""
    return not address.chosen_by and address.host.endswith("/podman.sock")


def _find_configured(environ: Mapping[str, str]) -> EngineAddress | None:
    if host := environ.get("DOCKER_HOST", "").strip():
        folder = environ.get("DOCKER_CERT_PATH", "")
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        if not folder and verify:
            folder = str(_config_folder(environ))
        has_tls = not host.startswith("unix://")
        certificates = Path(folder) if folder and has_tls else None
        return EngineAddress(host=host, chosen_by="DOCKER_HOST", certificates=certificates, verify=verify and has_tls)
    name = environ.get("DOCKER_CONTEXT") or _current_context(environ)
    return None if name in {"", "default"} else _read_context(environ, name)


def _config_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the docker command's configuration."""
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or Path.home()) / ".docker")


def _current_context(environ: Mapping[str, str]) -> str:
    try:
        name = _read_json(_config_folder(environ) / "config.json").get("currentContext")
    except (OSError, ValueError):
        return ""  # the docker command reports the error in its file; an engine may answer nevertheless
    return name if isinstance(name, str) else ""


def _read_context(environ: Mapping[str, str], name: str) -> EngineAddress:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    folder = _config_folder(environ) / "contexts"
    chosen_by = f"the Docker context {name}"
    try:
        endpoints = _table(_read_json(folder / "meta" / digest / "meta.json").get("Endpoints"))
    except (OSError, ValueError) as error:
        raise AddressError(
            f"The Docker context {name!r} was chosen, but cannot be read: {error}",
            "choose one that docker context ls shows: docker context use NAME (or unset DOCKER_CONTEXT).",
        ) from error
    endpoint = _table(endpoints.get("docker"))
    host = endpoint.get("Host")
    if not isinstance(host, str) or not host:
        raise AddressError(
            f"The Docker context {name!r} was chosen, but has no address of an engine.",
            "choose another: docker context use NAME.",
        )
    secrets = folder / "tls" / digest / "docker"
    has_tls = not host.startswith("unix://") and (secrets / "ca.pem").is_file()
    verify = has_tls and endpoint.get("SkipTLSVerify") is not True
    return EngineAddress(host=host, chosen_by=chosen_by, certificates=secrets if has_tls else None, verify=verify)


def _check_is_local(address: EngineAddress) -> None:
    scheme, _, rest = address.host.partition("://")
    if scheme in {"unix", "npipe"} and rest:
        return
    try:
        name = urlsplit(address.host if rest else f"tcp://{address.host}").hostname or ""
    except ValueError:
        name = ""
    if not name or (rest and scheme not in {"tcp", "http", "https", "ssh"}):
        raise AddressError(
            f"{address} is not the address of a Docker engine.", f"correct it, or: {address.alternative}"
        )
    if scheme == "ssh" or not _is_loopback(name):
        raise AddressError(f"{address} is another machine's engine; {_OTHER_MACHINE}.", f"type: {address.alternative}")


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _read_json(path: Path) -> dict[str, Any]:
    return _table(json.loads(path.read_text(encoding="utf-8")))


def _table(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
