"""At which addresses a Docker Engine may answer, and who says so.

As the docker command decides: DOCKER_HOST, then DOCKER_CONTEXT, then the current context of its config file. Where
none of them names one, the usual sockets. Contexts are read here: the SDK's `docker.context` takes the default for one
that is missing, and reads the working folder where there is no config file.
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
    """No engine can be used at the address that was chosen; the text says why, *next_step* what to do."""

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message)
        self.next_step = next_step


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a Docker Engine may answer.

    Attributes:
        host: As DOCKER_HOST has it.
        chosen_by: What names it, as a person would say it: `DOCKER_HOST`, `the Docker context colima`. Empty: it is a
            usual socket, which nobody chose.
        certificates: The folder with `ca.pem`, `cert.pem` and `key.pem` for TLS; None: without TLS, or without these.
        verify: Whether the engine's own certificate is checked.
    """

    host: str
    chosen_by: str = ""
    certificates: Path | None = None
    verify: bool = False

    def __str__(self) -> str:
        return f"{self.host} ({self.chosen_by})" if self.chosen_by else self.host

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which every program finds this engine and no other."""
        return {
            "DOCKER_HOST": self.host,
            "DOCKER_CONTEXT": "",
            "DOCKER_TLS_VERIFY": "1" if self.verify else "",
            "DOCKER_CERT_PATH": str(self.certificates or ""),
        }

    @property
    def socket(self) -> Path | None:
        """The socket's path; None for an address that has none."""
        return Path(self.host.removeprefix("unix://")) if self.host.startswith("unix://") else None

    @property
    def instead(self) -> str:
        """What whoever chose this engine may type to have another."""
        if self.chosen_by == "DOCKER_HOST":
            return "unset DOCKER_HOST"
        return "docker context use default" if self.chosen_by else "set DOCKER_HOST"


def addresses(environ: Mapping[str, str]) -> list[Address]:
    """The addresses to try, in this order. One that was chosen is the only one.

    Raises:
        AddressError: What was chosen cannot be used: an unknown context, an engine of another machine.
    """
    chosen = _chosen(environ)
    if chosen is None:
        return [Address(host=f"unix://{path}") for path in usual_sockets(environ)]
    _refuse_other_machines(chosen)
    return [chosen]


def usual_sockets(environ: Mapping[str, str]) -> list[Path]:
    """Where engines listen unless told otherwise; those of an ordinary user after the machine's.

    Docker Engine, rootless Docker, Docker Desktop (macOS, Linux), OrbStack, Rancher Desktop, Colima; last Podman, so
    that a user who has nothing else is told what it is.
    """
    found = [Path("/var/run/docker.sock")]
    if home := environ.get("HOME"):
        place = Path(home)
        runtime = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
        colima = Path(environ.get("COLIMA_HOME") or place / ".colima")
        found += [runtime / "docker.sock"]
        found += [place / each / "docker.sock" for each in (".docker/run", ".docker/desktop", ".orbstack/run", ".rd")]
        found += [colima / "docker.sock", colima / "default/docker.sock", *sorted(colima.glob("*/docker.sock"))]
        found += [place / ".config/colima/default/docker.sock"]
        found += [runtime / "podman/podman.sock", place / ".local/share/containers/podman/machine/podman.sock"]
    return list(dict.fromkeys(found))


def is_podmans(address: Address) -> bool:
    """Whether it is a socket of Podman's own."""
    return not address.chosen_by and address.host.endswith("/podman.sock")


def _chosen(environ: Mapping[str, str]) -> Address | None:
    if host := environ.get("DOCKER_HOST", "").strip():
        folder = environ.get("DOCKER_CERT_PATH", "")
        verify = bool(environ.get("DOCKER_TLS_VERIFY"))
        if not folder and verify:
            folder = str(_configuration(environ))
        secured = not host.startswith("unix://")
        certificates = Path(folder) if folder and secured else None
        return Address(host=host, chosen_by="DOCKER_HOST", certificates=certificates, verify=verify and secured)
    name = environ.get("DOCKER_CONTEXT") or _current(environ)
    return None if name in {"", "default"} else _context(environ, name)


def _configuration(environ: Mapping[str, str]) -> Path:
    """The docker command's own folder."""
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or Path.home()) / ".docker")


def _current(environ: Mapping[str, str]) -> str:
    try:
        name = _read(_configuration(environ) / "config.json").get("currentContext")
    except (OSError, ValueError):
        return ""  # the docker command says what is wrong with its file; an engine may answer all the same
    return name if isinstance(name, str) else ""


def _context(environ: Mapping[str, str], name: str) -> Address:
    number = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    folder = _configuration(environ) / "contexts"
    by = f"the Docker context {name}"
    try:
        endpoints = _table(_read(folder / "meta" / number / "meta.json").get("Endpoints"))
    except (OSError, ValueError) as error:
        raise AddressError(
            f"The Docker context {name!r} was chosen, but cannot be read: {error}",
            "choose one that docker context ls shows: docker context use NAME (or unset DOCKER_CONTEXT).",
        ) from error
    endpoint = _table(endpoints.get("docker"))
    host = endpoint.get("Host")
    if not isinstance(host, str) or not host:
        raise AddressError(
            f"The Docker context {name!r} was chosen, but names no engine.", "choose another: docker context use NAME."
        )
    secrets = folder / "tls" / number / "docker"
    secured = not host.startswith("unix://") and (secrets / "ca.pem").is_file()
    verify = secured and endpoint.get("SkipTLSVerify") is not True
    return Address(host=host, chosen_by=by, certificates=secrets if secured else None, verify=verify)


def _refuse_other_machines(address: Address) -> None:
    scheme, _, rest = address.host.partition("://")
    if scheme in {"unix", "npipe"} and rest:
        return
    try:
        name = urlsplit(address.host if rest else f"tcp://{address.host}").hostname or ""
    except ValueError:
        name = ""
    if not name or (rest and scheme not in {"tcp", "http", "https", "ssh"}):
        raise AddressError(f"{address} is no address of a Docker Engine.", f"correct it, or: {address.instead}")
    if scheme == "ssh" or not _is_here(name):
        raise AddressError(f"{address} is another machine's engine; {_OTHER_MACHINE}.", f"type: {address.instead}")


def _is_here(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _read(path: Path) -> dict[str, Any]:
    return _table(json.loads(path.read_text(encoding="utf-8")))


def _table(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
