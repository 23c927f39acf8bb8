"""Finds and locks the packages that a folder's fleets name, for the command `mcpfleet packages`.

The command finds this module by the entry point `mcpfleet.packages`. It runs Docker and prints the output itself.
"""

import asyncio
import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import httpx2
import yaml

from pulumi_mcpfleet.fleet import Fleet, FleetError, Stdio, parse_fleet
from pulumi_mcpfleet.fleet.stdio import Registered
from pulumi_mcpfleet.sources.build_plan import BuildPlanError
from pulumi_mcpfleet.sources.lock import Lock, lock_for
from pulumi_mcpfleet.sources.registry_entry import MAX_SERVER_JSON_BYTES, RegistryEntry

_KEY: Final = "mcpfleet:fleet"
_TIMEOUT_SECONDS: Final = 30.0
_OK: Final = 200

Fetch = Callable[[str], bytes]


class PackagesError(ValueError):
    """The packages of a folder can't be found, or one can't be locked. The text has the next step."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that a fleet names.

    Attributes:
        lock: Its lock, which may not exist yet.
        build_args: The build arguments of its image.
        root: The folder of Pulumi.yaml.
    """

    lock: Lock
    build_args: Mapping[str, str]
    root: Path

    @property
    def name(self) -> str:
        """The package with its version."""
        return self.lock.package

    @property
    def lock_folder(self) -> Path:
        """The path of the lock's folder."""
        return self.root / self.lock.folder

    @property
    def is_locked(self) -> bool:
        """True if the lock exists."""
        return self.lock.exists(self.root)

    def dockerfile(self, today: datetime.date, days: int) -> str:
        """Return a Dockerfile whose image has the lock in /lock, with packages that are at least *days* days old."""
        return self.lock.dockerfile(self.lock.newest_date(today, days))

    def save_lock(self, built: Path) -> None:
        """Save the files of a lock that has been built.

        Args:
            built: The folder with the files.

        Raises:
            PackagesError: A file is missing, or a package has no hash.
            OSError: A file can't be written.
        """
        try:
            self.lock.save(built, self.root)
        except (BuildPlanError, ValueError) as error:
            raise PackagesError(str(error)) from None


def find_packages(root: Path, stack: str | None = None) -> list[Package]:
    """Find the packages of a folder's fleets, each once.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The only stack to read; None for all that have a config file.

    Raises:
        PackagesError: There is no config file, or a fleet has mistakes.
    """
    packages: dict[str, Package] = {}
    for file in _find_config_files(root, stack):
        for source in _find_stdio_sources(_read_fleet(file), root):
            lock = lock_for(source.spec, source.build_args)
            if lock.kind != "image":
                packages.setdefault(lock.folder, Package(lock=lock, build_args=source.build_args, root=root))
    return list(packages.values())


def _find_config_files(root: Path, stack: str | None) -> list[Path]:
    files = sorted(root.glob("Pulumi.*.yaml")) if stack is None else [root / f"Pulumi.{stack}.yaml"]
    if not files or not files[0].is_file():
        name = f"Pulumi.{stack or 'STACK'}.yaml"
        raise PackagesError(f"There is no {name} in {root}. Run this in the folder of Pulumi.yaml, or give --cwd.")
    return files


def _read_fleet(file: Path) -> Fleet | None:
    try:
        document: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PackagesError(f"{file.name} can't be read: {error}") from None
    config: Any = cast("dict[str, Any]", document).get("config") if isinstance(document, dict) else None
    raw: Any = cast("dict[str, Any]", config).get(_KEY) if isinstance(config, dict) else None
    try:
        return None if raw is None else parse_fleet(raw)
    except FleetError as error:
        raise PackagesError(f"{file.name}:\n{error}") from None


def _find_stdio_sources(fleet: Fleet | None, root: Path) -> Iterator[Stdio]:
    workloads = [] if fleet is None else [*fleet.servers.values(), *fleet.clients.values()]
    for workload in workloads:
        if isinstance(workload.source, Stdio):
            yield workload.source
        elif isinstance(workload.source, Registered):
            try:
                yield workload.source.resolve(root)
            except ValueError as error:
                raise PackagesError(str(error)) from None


def look_up(root: Path, stack: str | None = None, *, renew: bool = False, fetch: Fetch | None = None) -> list[str]:
    """Look up the servers of a folder's fleets in their registries, and save their server.json files.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The only stack to read; None for all that have a config file.
        renew: Whether to look up servers that are saved already, too.
        fetch: Returns the body of the response at a URL; by default over the network.

    Returns:
        The servers that were looked up.

    Raises:
        PackagesError: A registry doesn't have a server, or one can't be deployed. Names all of these; saves the others.
    """
    entries: dict[str, RegistryEntry] = {}
    for file in _find_config_files(root, stack):
        fleet = _read_fleet(file)
        for workload in [] if fleet is None else [*fleet.servers.values(), *fleet.clients.values()]:
            if isinstance(workload.source, Registered):
                entries[workload.source.entry.folder] = workload.source.entry
    requested = [entry for entry in entries.values() if renew or not entry.exists(root)]
    failures: list[str] = []
    for entry in requested:
        try:
            entry.save((fetch or _fetch)(entry.address), root)
        except (BuildPlanError, PackagesError) as error:
            failures.append(str(error))
    if failures:
        raise PackagesError("\n".join(failures))
    return [entry.server for entry in requested]


def _fetch(address: str, transport: httpx2.AsyncBaseTransport | None = None) -> bytes:
    """Fetch a server from a registry, without following redirects, up to the maximum size of a server.json.

    Raises:
        PackagesError: The response is not complete within 30 s, is compressed, or is not a success.
    """
    try:
        return asyncio.run(_read_response(address, transport))
    except TimeoutError:
        raise PackagesError(f"{address} did not answer within {_TIMEOUT_SECONDS:g} s; run the command again") from None
    except httpx2.HTTPError as error:
        raise PackagesError(f"can't reach {address}: {error or type(error).__name__}") from None


async def _read_response(address: str, transport: httpx2.AsyncBaseTransport | None) -> bytes:
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    content = b""
    async with (
        asyncio.timeout(_TIMEOUT_SECONDS),  # in total: with a limit for each read, a response could take hours
        httpx2.AsyncClient(transport=transport, timeout=_TIMEOUT_SECONDS, headers=headers) as http,
        http.stream("GET", address) as response,
    ):
        if response.status_code != _OK:
            raise PackagesError(f"{address} answers {response.status_code}: the registry has no such server")
        if "content-encoding" in response.headers:
            raise PackagesError(f"{address} sends a compressed response, which was not requested; correct the registry")
        async for chunk in response.aiter_raw():
            content += chunk
            if len(content) > MAX_SERVER_JSON_BYTES:
                raise PackagesError(f"the response of {address} is too large for a server.json; correct the registry")
    return content
