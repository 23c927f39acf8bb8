"""What `mcpfleet packages` asks of a folder's fleets: which packages they name, and what locks each.

The command finds this module by the entry point `mcpfleet.packages`, and runs Docker and prints itself.
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
from pulumi_mcpfleet.sources.lock import Lock, lock_of
from pulumi_mcpfleet.sources.registered import LARGEST, Entry

_KEY: Final = "mcpfleet:fleet"
_SECONDS: Final = 30.0
_FOUND: Final = 200

Ask = Callable[[str], bytes]


class PackagesError(ValueError):
    """The packages of a folder can't be told, or one can't be locked; the text says what to do."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package that a fleet names.

    Attributes:
        lock: What locks it.
        build_args: Of its image.
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
    def place(self) -> Path:
        """The folder of its lock."""
        return self.root / self.lock.folder

    @property
    def locked(self) -> bool:
        """Whether the lock has been made."""
        return self.lock.there(self.root)

    def dockerfile(self, today: datetime.date, days: int) -> str:
        """A Dockerfile whose image has the lock in /lock, of packages that are at least some days old."""
        return self.lock.dockerfile(self.lock.newest(today, days))

    def keep(self, made: Path) -> None:
        """Take over the files of a lock.

        Args:
            made: The folder that holds them.

        Raises:
            PackagesError: They lock nothing, or not all.
            OSError: They can't be written.
        """
        try:
            self.lock.keep(made, self.root)
        except (BuildPlanError, ValueError) as error:
            raise PackagesError(str(error)) from None


def packages_of(root: Path, stack: str | None = None) -> list[Package]:
    """The packages of the fleets of a folder, each once.

    Args:
        root: The folder of Pulumi.yaml.
        stack: Look at this stack alone, not at all that have a file.

    Raises:
        PackagesError: There is no such file, or a fleet has mistakes.
    """
    found: dict[str, Package] = {}
    for file in _files(root, stack):
        for source in _sources(_fleet(file), root):
            lock = lock_of(source.server, source.build_args)
            if lock.kind != "image":
                found.setdefault(lock.folder, Package(lock=lock, build_args=source.build_args, root=root))
    return list(found.values())


def _files(root: Path, stack: str | None) -> list[Path]:
    files = sorted(root.glob("Pulumi.*.yaml")) if stack is None else [root / f"Pulumi.{stack}.yaml"]
    if not files or not files[0].is_file():
        name = f"Pulumi.{stack or 'STACK'}.yaml"
        raise PackagesError(f"There is no {name} in {root}. Run this in the folder of Pulumi.yaml, or give --cwd.")
    return files


def _fleet(file: Path) -> Fleet | None:
    try:
        said: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PackagesError(f"{file.name} can't be read: {error}") from None
    config: Any = cast("dict[str, Any]", said).get("config") if isinstance(said, dict) else None
    raw: Any = cast("dict[str, Any]", config).get(_KEY) if isinstance(config, dict) else None
    try:
        return None if raw is None else parse_fleet(raw)
    except FleetError as error:
        raise PackagesError(f"{file.name}:\n{error}") from None


def _sources(fleet: Fleet | None, root: Path) -> Iterator[Stdio]:
    workloads = [] if fleet is None else [*fleet.servers.values(), *fleet.clients.values()]
    for one in workloads:
        if isinstance(one.source, Stdio):
            yield one.source
        elif isinstance(one.source, Registered):
            try:
                yield one.source.resolved(root)
            except ValueError as error:
                raise PackagesError(str(error)) from None


def look_up(root: Path, stack: str | None = None, *, renew: bool = False, ask: Ask | None = None) -> list[str]:
    """Ask registries for the servers of a folder's fleets, and keep what they answer.

    Args:
        root: The folder of Pulumi.yaml.
        stack: Look at this stack alone, not at all that have a file.
        renew: Whether those are asked for that are kept already.
        ask: Gives the body of an address.

    Returns:
        The servers that were asked for.

    Raises:
        PackagesError: A registry does not have one, or one can't be deployed; all such are named, the others kept.
    """
    entries: dict[str, Entry] = {}
    for file in _files(root, stack):
        fleet = _fleet(file)
        for one in [] if fleet is None else [*fleet.servers.values(), *fleet.clients.values()]:
            if isinstance(one.source, Registered):
                entries[one.source.entry.folder] = one.source.entry
    wanted = [entry for entry in entries.values() if renew or not entry.there(root)]
    failed: list[str] = []
    for entry in wanted:
        try:
            entry.keep((ask or _asked)(entry.address), root)
        except (BuildPlanError, PackagesError) as error:
            failed.append(str(error))
    if failed:
        raise PackagesError("\n".join(failed))
    return [entry.server for entry in wanted]


def _asked(address: str, transport: httpx2.AsyncBaseTransport | None = None) -> bytes:
    """What a registry answers; no redirect is followed, and no more is read than a server.json may have.

    Raises:
        PackagesError: It does not answer as a whole within 30 s, compresses its answer, or has no such server.
    """
    try:
        return asyncio.run(_answer(address, transport))
    except TimeoutError:
        raise PackagesError(f"{address} did not answer within {_SECONDS:g} s; run the command again") from None
    except httpx2.HTTPError as error:
        raise PackagesError(f"{address} can't be asked: {error or type(error).__name__}") from None


async def _answer(address: str, transport: httpx2.AsyncBaseTransport | None) -> bytes:
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    content = b""
    async with (
        asyncio.timeout(_SECONDS),  # in all: a limit for each read lets an answer drip for hours
        httpx2.AsyncClient(transport=transport, timeout=_SECONDS, headers=headers) as http,
        http.stream("GET", address) as answer,
    ):
        if answer.status_code != _FOUND:
            raise PackagesError(f"{address} answers {answer.status_code}: the registry has no such server")
        if "content-encoding" in answer.headers:
            raise PackagesError(f"{address} answers in a compressed form that was not asked for; correct the registry")
        async for piece in answer.aiter_raw():
            content += piece
            if len(content) > LARGEST:
                raise PackagesError(f"{address} answers with more than a server.json; correct the registry")
    return content
