"""Maps a stack's config for Google Cloud to a config for the local cloud, and lists what the local cloud lacks.

Nothing here reads a file, an environment variable or a credential, except that the parser of the fleet looks for the
folders and locks that the fleet names.
"""

import copy
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from mcpfleet_local_cloud.commands.environment import UNIVERSE
from mcpfleet_local_cloud.services.resourcemanager.model import ORGANIZATION
from pulumi_mcpfleet.fleet import Fleet, FleetError, Workload, parse_fleet
from pulumi_mcpfleet.fleet.base import ConfigPath, Model
from pulumi_mcpfleet.fleet.mistakes import format_path
from pulumi_mcpfleet.fleet.stdio import Stdio
from pulumi_mcpfleet.fleet.volumes import NfsVolume
from pulumi_mcpfleet.sources.build_plan import BASE_IMAGE as PINNED_IMAGE
from pulumi_mcpfleet.sources.lock import lock_for

PROJECT: Final = "mcpfleet-local"
INVOKER: Final = f"user:ada@{UNIVERSE}"
"""Stands for every principal of the config: `ada` is a user of each local cloud."""

MAX_VERSIONS: Final = 200
"""The highest version of a secret that is rehearsed: each version up to it is stored in the local cloud."""

_FLEET: Final = "mcpfleet:fleet"
_GCP_PROJECT: Final = "gcp:project"
_KEPT_GCP_KEYS: Final = {"gcp:region", "gcp:zone", "gcp:defaultLabels"}
"""The provider's keys that say nothing about credentials and endpoints. All others are left out."""

_UNAVAILABLE: Final[Mapping[str, str]] = {
    "gpu": "has no GPUs",
    "cloudsql_instances": "has no Cloud SQL",
    "encryption_key": "has no Cloud KMS",
    "binary_authorization": "has no Binary Authorization",
    "use_http2": "sends HTTP/1 to containers",
}
"""The keys of a server or client that the local cloud refuses, and what it lacks."""


class MappingError(ValueError):
    """The config can't be mapped.

    Attributes:
        lines: One line for each reason, which begins with its path in the config.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(lines)
        super().__init__("\n".join(self.lines))


class UnavailableError(MappingError):
    """The fleet has parts that the local cloud doesn't have.

    Attributes:
        keys: What `--skip` takes to leave these parts out.
    """

    def __init__(self, parts: Sequence[tuple[ConfigPath, str]]) -> None:
        super().__init__(f"{format_path(path)}: {reason}" for path, reason in parts)
        self.keys = outermost(skip_key(path) for path, _ in parts)


@dataclass(frozen=True)
class RehearsedSecret:
    """A secret that the fleet reads.

    Attributes:
        name: Its name in the config, which is also its name in the file of `--secrets`.
        local_name: Its name in the local cloud.
        versions: The number of versions that it must have.
    """

    name: str
    local_name: str
    versions: int


@dataclass(frozen=True)
class Rehearsal:
    """A stack's config for the local cloud.

    Attributes:
        config: The values of the stack's config file.
        fleet: The fleet in it.
        secrets: The secrets that must exist before the deployment.
        config_secrets: The encrypted values of the config, by their paths.
        service_accounts: The service accounts that must exist, by address.
        buckets: The buckets that must exist.
        notes: What was replaced, one line each.
    """

    config: Mapping[str, Any]
    fleet: Fleet
    secrets: tuple[RehearsedSecret, ...]
    config_secrets: tuple[str, ...]
    service_accounts: tuple[str, ...]
    buckets: tuple[str, ...]
    notes: tuple[str, ...]


def skip_key(path: ConfigPath) -> str:
    """Return the text by which `--skip` names a path of the fleet: without `fleet.` at its beginning."""
    return format_path(path).partition(".")[2]


def outermost(keys: Iterable[str]) -> tuple[str, ...]:
    """Return *keys* once each, without those that are within another."""
    unique = dict.fromkeys(keys)
    return tuple(key for key in unique if not any(key.startswith((f"{other}.", f"{other}[")) for other in unique))


def map_config(
    config: Mapping[Any, Any],
    root: Path,
    *,
    base_image: str,
    skip: Sequence[str] = (),
    values: Mapping[str, str] | None = None,
) -> Rehearsal:
    """Map the config of a stack to the local cloud.

    Args:
        config: The values of the stack's config file, over those of Pulumi.yaml.
        root: The folder of Pulumi.yaml.
        base_image: The local image that stands for the pinned base image.
        skip: Paths of the fleet to leave out, as `skip_key` writes them.
        values: Values for the encrypted values of the config, by path. All others get a dummy.

    Raises:
        UnavailableError: The local cloud lacks something that the fleet has.
        MappingError: The fleet has mistakes, or a path to skip does not exist.
    """
    raw: Any = config.get(_FLEET)
    if not isinstance(raw, Mapping):
        raise MappingError([f"{_FLEET}: missing; mcpfleet rehearse deploys the fleet of a config file"])
    decryption = _Decryption(values or {})
    raw_fleet: dict[str, Any] = decryption.replace(copy.deepcopy(cast("Mapping[str, Any]", raw)), (_FLEET,))
    removed = [line for key in skip for line in _remove(raw_fleet, key)]
    fleet = _parse(raw_fleet, root)
    unavailable = [*_find_unavailable(fleet)]
    if unavailable:
        raise UnavailableError(unavailable)
    project = str(config.get(_GCP_PROJECT) or PROJECT)
    mapper = _Mapper(raw_fleet, fleet, project, root, base_image)
    mapper.map()
    others = {
        str(key): decryption.replace(value, (str(key),))
        for key, value in config.items()
        if key != _FLEET and (not str(key).startswith("gcp:") or key in _KEPT_GCP_KEYS)
    }
    return Rehearsal(
        config={**others, _GCP_PROJECT: PROJECT, "gcp:universeDomain": UNIVERSE, _FLEET: raw_fleet},
        fleet=_parse(raw_fleet, root),
        secrets=mapper.secrets(),
        config_secrets=tuple(decryption.paths),
        service_accounts=tuple(mapper.service_accounts),
        buckets=tuple(mapper.buckets),
        notes=(f"project {project} → {PROJECT}", *removed, *mapper.notes()),
    )


def dummy_value(name: str) -> str:
    """Return the value of a secret that nobody gave: it names the secret, and says that it is not a real one."""
    return f"mcpfleet-rehearsal-dummy-for-{name}-not-a-real-secret"


def _parse(raw: Mapping[str, Any], root: Path) -> Fleet:
    try:
        return parse_fleet(raw, root=root)
    except FleetError as error:
        raise MappingError(str(error).splitlines()) from None


class _Decryption:
    """Replaces encrypted values (`secure: …`), which only the stack's own key can decrypt."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self.paths: list[str] = []

    def replace(self, value: Any, path: tuple[str, ...]) -> Any:
        """Return *value* with a given value or a dummy in the place of each encrypted one."""
        if isinstance(value, list):
            return [self.replace(item, (*path, str(index))) for index, item in enumerate(cast("list[Any]", value))]
        if not isinstance(value, Mapping):
            return value
        mapping = cast("Mapping[Any, Any]", value)
        if [*mapping] == ["secure"] and not isinstance(mapping["secure"], Mapping):
            name = ".".join(path)
            self.paths.append(name)
            return self._values.get(name, dummy_value(name))
        return {key: self.replace(item, (*path, str(key))) for key, item in mapping.items()}


def _find_unavailable(fleet: Fleet) -> Iterator[tuple[ConfigPath, str]]:
    for path, spec in _workloads(fleet):
        for key, reason in _UNAVAILABLE.items():
            if getattr(spec, key):
                yield (*path, key), f"the local cloud {reason}"
        if spec.vpc is not None and spec.vpc.connector is not None:
            yield (*path, "vpc"), "the local cloud has no connectors of Serverless VPC Access"
        for name, volume in spec.volumes.items():
            if isinstance(volume, NfsVolume):
                yield (*path, "volumes", name), "the local cloud has no NFS servers"
    for path, model in _walk(fleet, ()):
        for version in _versions(model):
            if version != "latest" and int(version) > MAX_VERSIONS:
                yield path, f"version {version} of a secret; a rehearsal has at most {MAX_VERSIONS} versions of each"


def _workloads(fleet: Fleet) -> Iterator[tuple[ConfigPath, Workload]]:
    for section, workloads in (("servers", fleet.servers), ("clients", fleet.clients)):
        for name, spec in workloads.items():
            yield (section, name), spec


def _walk(value: Any, path: ConfigPath) -> Iterator[tuple[ConfigPath, Model]]:
    """Every model within *value*, with its path."""
    children: Iterable[tuple[str | int, Any]] = ()
    if isinstance(value, Model):
        yield path, value
        children = ((name, getattr(value, name)) for name in type(value).model_fields)
    elif isinstance(value, Mapping):
        children = ((str(key), item) for key, item in cast("Mapping[Any, Any]", value).items())
    elif isinstance(value, tuple | list):
        children = enumerate(cast("Sequence[Any]", value))
    for step, child in children:
        yield from _walk(child, (*path, step))


def _versions(model: Model) -> Iterator[str]:
    """The versions of a secret that *model* reads; none if it is not a reference to a secret."""
    if not hasattr(model, "secret"):
        return
    items: Mapping[str, Any] = getattr(model, "items", None) or {}
    for version in (getattr(model, "version", None), *(item.version for item in items.values())):
        if version is not None:
            yield version


def _remove(raw_fleet: dict[str, Any], key: str) -> list[str]:
    """Remove the path *key* from the fleet; return a line for each part that was removed.

    Raises:
        MappingError: The fleet has no such path.
    """
    wanted = key.strip().removeprefix("fleet.")
    for path, container in _containers(raw_fleet, ()):
        for step in list(container):
            if skip_key((*path, step)) != wanted:
                continue
            del container[step]
            if step == "gpu":
                container.pop("gpu_zonal_redundancy", None)  # it is a mistake without a GPU
            if path[-1:] == ("sidecars",):
                _forget_sidecar(raw_fleet[str(path[0])][path[1]], str(step))
            lines = [f"{wanted} is skipped"]
            if len(path) == 1 and path[0] == "servers":
                lines += _forget_server(raw_fleet, str(step))
            return lines
    raise MappingError([f"--skip {wanted}: the fleet has no such key; write a path as in servers.NAME.gpu"])


def _forget_sidecar(spec: dict[str, Any], sidecar: str) -> None:
    """Let no container of the server wait for a skipped sidecar."""
    others: dict[str, Any] = spec.get("sidecars") or {}
    for container in (spec, *others.values()):
        waits: Any = container.get("depends_on")
        if isinstance(waits, list):
            container["depends_on"] = [name for name in cast("list[Any]", waits) if name != sidecar]


def _containers(value: Any, path: ConfigPath) -> Iterator[tuple[ConfigPath, dict[Any, Any]]]:
    if isinstance(value, dict):
        mapping = cast("dict[Any, Any]", value)
        yield path, mapping
        for key, item in mapping.items():
            yield from _containers(item, (*path, str(key)))


def _forget_server(raw_fleet: dict[str, Any], server: str) -> list[str]:
    """Remove a skipped server from the clients that call it, and clients that then call none."""
    clients: Any = raw_fleet.get("clients")
    lines: list[str] = []
    for name, spec in list(cast("dict[str, Any]", clients).items()) if isinstance(clients, dict) else ():
        calls: Any = cast("dict[str, Any]", spec).get("calls") if isinstance(spec, dict) else None
        if not isinstance(calls, list) or server not in calls:
            continue
        rest = [call for call in cast("list[Any]", calls) if call != server]
        if rest:
            spec["calls"] = rest
        else:
            del clients[name]
            lines.append(f"clients.{name} is skipped: it calls only {server}")
    return lines


class _Mapper:
    """Replaces the coordinates of Google Cloud in the raw fleet, which has no mistakes."""

    def __init__(self, raw_fleet: dict[str, Any], fleet: Fleet, project: str, root: Path, base_image: str) -> None:
        self._raw = raw_fleet
        self._fleet = fleet
        self._project = project
        self._root = root
        self._base_image = base_image
        self._secrets: dict[str, RehearsedSecret] = {}
        self._principals = set[str]()
        self._rebased: list[str] = []
        self.service_accounts: dict[str, None] = {}
        self.buckets: dict[str, None] = {}

    def map(self) -> None:
        """Map the whole fleet."""
        self._raw["platform"] = "native"
        if self._fleet.organization is not None:
            self._raw["organization"] = ORGANIZATION
        for path, model in _walk(self._fleet, ()):
            self._map_secret(path, model)
            if (bucket := getattr(model, "bucket", None)) is not None:
                self.buckets[bucket] = None
        for path, spec in _workloads(self._fleet):
            raw = self._at(path)
            raw["deletion_protection"] = False  # the rehearsal is removed
            self._map_access(raw)
            self._map_network(raw)
            self._map_identities(raw)
            self._map_base_image(path, spec, raw)

    def secrets(self) -> tuple[RehearsedSecret, ...]:
        """The secrets that the fleet reads."""
        return tuple(self._secrets.values())

    def notes(self) -> Iterator[str]:
        """What was replaced."""
        if self._principals:
            yield f"{', '.join(sorted(self._principals))} → {INVOKER}"
        if self._rebased:
            yield f"base image of {', '.join(self._rebased)} → {self._base_image}"

    def _at(self, path: ConfigPath) -> dict[str, Any]:
        value: Any = self._raw
        for step in path:
            value = value[step]
        return value

    def _map_secret(self, path: ConfigPath, model: Model) -> None:
        versions = [*_versions(model)]
        if not versions:
            return
        raw = self._at(path)
        name = str(raw["secret"])
        own = f"projects/{self._project}/secrets/"
        local_name = re.sub(r"[^A-Za-z0-9_-]", "-", name.removeprefix(own).replace("/secrets/", "-"))
        raw["secret"] = local_name = local_name.removeprefix("projects-")[:255]
        count = max(1 if version == "latest" else int(version) for version in versions)
        known = self._secrets.get(local_name)
        self._secrets[local_name] = RehearsedSecret(
            name.removeprefix(own), local_name, max(count, known.versions if known else 0)
        )

    def _map_access(self, raw: dict[str, Any]) -> None:
        access: Any = raw.get("access")
        for kind, key in (("iam", "invokers"), ("iap", "members")):
            given: Any = cast("dict[str, Any]", access).get(kind) if isinstance(access, dict) else None
            if isinstance(given, dict) and (members := cast("dict[str, Any]", given).get(key)):
                self._principals.update(map(str, members))
                given[key] = [INVOKER]
        self._principals.discard(INVOKER)

    def _map_network(self, raw: dict[str, Any]) -> None:
        vpc: Any = raw.get("vpc")
        for key in ("network", "subnetwork"):
            if isinstance(vpc, dict) and isinstance(name := cast("dict[str, Any]", vpc).get(key), str):
                vpc[key] = name.rpartition("/")[2]

    def _map_identities(self, raw: dict[str, Any]) -> None:
        account: Any = raw.get("service_account")
        if isinstance(account, str):
            address = f"{account.partition('@')[0]}@{PROJECT}.iam.gserviceaccount.com"
            raw["service_account"] = address
            self.service_accounts[address] = None
        roles: Any = raw.get("roles")
        for index, role in enumerate(cast("list[Any]", roles)) if isinstance(roles, list) else ():
            own = f"projects/{self._project}/roles/"
            if isinstance(role, str):
                roles[index] = role.replace(own, f"projects/{PROJECT}/roles/")
            elif isinstance(role, dict) and isinstance(named := cast("dict[str, Any]", role).get("role"), str):
                role["role"] = named.replace(own, f"projects/{PROJECT}/roles/")

    def _map_base_image(self, path: ConfigPath, spec: Workload, raw: dict[str, Any]) -> None:
        source: Any = raw.get("source")
        if not isinstance(source, dict) or "image" in source:
            return
        fields = cast("dict[str, Any]", source)
        arguments: dict[str, Any] = fields.get("build_args") or {}
        if "BASE_IMAGE" in arguments or not self._builds_on_pinned_image(spec, fields):
            return
        fields["build_args"] = {**arguments, "BASE_IMAGE": self._base_image}
        self._rebased.append(skip_key(path))

    def _builds_on_pinned_image(self, spec: Workload, source: Mapping[str, Any]) -> bool:
        if isinstance(spec.source, Stdio):
            # A lock holds for its base image: with another one, profile `prod` would refuse the package.
            return spec.source.stdio.image is None and not lock_for(spec.source.spec, spec.source.build_args).exists(
                self._root
            )
        folder: Any = source.get("folder") or source.get("build")
        if not isinstance(folder, str):
            return "dockerfile" not in source  # a Git repository
        dockerfile: Any = source.get("dockerfile") or "Dockerfile"
        file = self._root / folder / str(dockerfile)
        if not file.is_file():
            return "build" not in source and "dockerfile" not in source
        return f"ARG BASE_IMAGE={PINNED_IMAGE}" in file.read_text(encoding="utf-8", errors="replace")


def to_yaml(config: Mapping[str, Any]) -> str:
    """Write the values of a stack's config file. JSON is YAML, and leaves no doubt about the types of values."""
    return json.dumps({"config": config, "encryptionsalt": SALT}, indent=2) + "\n"


SALT: Final = "v1:gXGWDjCT5Rk=:v1:Yo0vNfNdjc6qXNyT:1vY/oAm0TgI3DMowXZPM1kl5CW6WhA=="
"""The salt of the local cloud's passphrase (`environment.PASSPHRASE`), as in Pulumi.local.yaml. A fixed one, so that
the state of one rehearsal can be read by the next."""
