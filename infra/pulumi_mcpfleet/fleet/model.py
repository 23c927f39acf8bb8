"""The fleet's top-level keys, each with its default, limits and description, and the rules between servers.

Keys follow the user's vocabulary, not the provider's. Error messages suggest a field's first example when the field is
missing; the reference page and the editors' schema show it, too.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.fleet import domains, identities, images, values
from pulumi_mcpfleet.fleet.access import IapAccess
from pulumi_mcpfleet.fleet.base import NO_REPEATS, NUMBER, PARENT, Mistake, Model, invalid_names, raise_if_any
from pulumi_mcpfleet.fleet.client import Client, client_mistakes
from pulumi_mcpfleet.fleet.field_docs import FieldDoc, to_yaml
from pulumi_mcpfleet.fleet.images import host_of, is_pinned, is_pullable
from pulumi_mcpfleet.fleet.references import key_region
from pulumi_mcpfleet.fleet.server import Server
from pulumi_mcpfleet.fleet.sources import ExistingImage
from pulumi_mcpfleet.fleet.stdio import lock_mistake
from pulumi_mcpfleet.fleet.workload import Workload

PROFILES: Final[Mapping[str, Mapping[str, Any]]] = {
    "dev": {"deletion_protection": False, "min_instances": 0},
    "prod": {"deletion_protection": True, "min_instances": 1},
}
"""The defaults of a server's keys that depend on the profile."""


MAX_LABELS: Final = 60
"""The most labels on one resource: Google's limit of 64, minus those that the provider adds."""


class Registry(Model):
    """The Artifact Registry repository for built images, and remote repositories for other registries."""

    repository: images.RepositoryId = Field(
        default=naming.REPOSITORY_ID,
        description="The name of the Artifact Registry repository for the images.",
        examples=["mcp-images"],
    )
    keep: Annotated[int, NUMBER] = Field(
        default=10,
        ge=1,
        le=1000,
        description=("The number of versions of each image to keep. Older versions without a tag are deleted."),
        examples=[20],
    )
    dry_run: bool = Field(
        default=False, description="Whether the cleanup only logs what it would delete.", examples=[True]
    )
    remote: Annotated[images.UpstreamRegistries, NO_REPEATS] = Field(
        default=(),
        max_length=20,
        description=(
            "One or more public registries from which Cloud Run doesn't pull. Cloud Run gets their "
            "images through a remote repository of Artifact Registry, which also caches them."
        ),
        examples=["ghcr.io"],
    )


class CloudBuildOptions(Model):
    """Options for the images that Cloud Build builds (`builder: cloud-build`)."""

    machine_type: Literal["e2-medium", "e2-highcpu-8", "e2-highcpu-32"] | None = Field(
        default=None,
        description="The machine type, by gcloud's name. Default: the one that Cloud Build chooses.",
        examples=["e2-highcpu-8"],
    )
    timeout: Annotated[int, NUMBER] = Field(
        default=1200,
        ge=60,
        le=86_400,
        description="The maximum duration of a build, in seconds.",
        examples=[3600],
    )


class Fleet(Model):
    """All servers and clients of one stack."""

    region: values.Region | None = Field(
        default=None,
        description=("The Google Cloud region of all servers, clients and images. Required, unless you set `regions`."),
        examples=["europe-west1"],
    )
    regions: Annotated[tuple[values.Region, ...], NO_REPEATS] = Field(
        default=(),
        max_length=20,
        description=(
            "Several regions instead of `region`. Each server runs in all of them, behind its "
            "`domain`. The images are in the first one."
        ),
        examples=[["europe-west1", "us-central1"]],
    )
    new_regions: Annotated[tuple[values.NewRegion, ...], NO_REPEATS] = Field(
        default=(),
        max_length=20,
        description=(
            "Regions of Cloud Run that this version of mcpfleet doesn't know yet. You can then use "
            "them in `region` and `regions`."
        ),
        examples=[["europe-north3"]],
    )
    profile: Literal["dev", "prod"] = Field(
        default="dev",
        description="The set of defaults that applies ([the differences](#the-keys-of-a-fleet)).",
        examples=["prod"],
    )
    organization: identities.Organization | None = Field(
        default=None,
        description=(
            "The ID of the organization that the project is in. `access: iap` needs it, or an `oauth_client`."
        ),
        examples=["481516234200"],
    )
    labels: Annotated[Mapping[values.LabelKey, values.LabelValue], Field(max_length=60)] = Field(
        default={},
        description="Labels for every resource that can have labels.",
        examples=[{"team": "platform", "cost-center": "4711"}],
    )
    registry: Annotated[Registry, FieldDoc("[registry](#registry)", "")] = Field(
        default=Registry(), description="Where images are stored, and for how long.", examples=[{"keep": 20}]
    )
    load_balancer: Literal["per-server", "both", "shared"] = Field(
        default="per-server",
        description=(
            "Whether each `domain` has its own load balancer, or all domains share one. Use `both` "
            "only while you move from one to the other ([domains](#domains))."
        ),
        examples=["shared"],
    )
    cloud_build: Annotated[CloudBuildOptions, FieldDoc("[Cloud Build](#cloud-build)", "")] = Field(
        default=CloudBuildOptions(),
        description="Options for builds with `builder: cloud-build`.",
        examples=[{"machine_type": "e2-highcpu-8"}],
    )
    platform: Literal["linux/amd64", "native"] = Field(
        default="linux/amd64",
        description=(
            "The platform of the images that are built. Cloud Run runs only linux/amd64. `native` "
            "is for a stack elsewhere: the platform of the Docker Engine that builds."
        ),
        examples=["native"],
    )
    servers: Mapping[values.ServerName, Annotated[Server, FieldDoc("[server](#a-server)", "[servers](#a-server)")]] = (
        Field(
            min_length=1,
            max_length=500,
            description="The servers, by name.",
            examples=[{"reference": {"source": {"build": "./my_server"}}}],
        )
    )
    clients: Mapping[values.ServerName, Annotated[Client, FieldDoc("[client](#a-client)", "[clients](#a-client)")]] = (
        Field(
            default={},
            max_length=500,
            description="Services that call the servers, by name. Each one has its own service account.",
            examples=[
                {"assistant": {"source": {"image": "docker.io/acme/assistant:1"}, "calls": ["reference"]}},
            ],
        )
    )

    @property
    def all_regions(self) -> tuple[str, ...]:
        """The regions in which the servers run; the images are in the first."""
        return self.regions or (str(self.region),)

    @property
    def mesh(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The servers that clients call through the mesh, and the VPC networks of these clients."""
        clients = [client for client in self.clients.values() if client.topology == "mesh"]
        called = {server: None for client in clients for server in client.calls}
        networks = {str(client.vpc.network): None for client in clients if client.vpc is not None}
        return tuple(called), tuple(networks)

    @model_validator(mode="before")
    @classmethod
    def _apply_profile(cls, raw: Any) -> Any:
        """Set the profile's defaults in each server and client that does not set these keys."""
        fleet = _to_dict(raw)
        defaults = PROFILES.get(str(fleet.get("profile", "dev")), {})
        client_defaults = {"deletion_protection": defaults["deletion_protection"]} if defaults else {}
        clients = {
            name: {**client_defaults, **_to_dict(spec)} if isinstance(spec, Mapping) else spec
            for name, spec in _to_dict(fleet.get("clients")).items()
        }
        servers = {
            name: {**defaults, **_to_dict(spec)} if isinstance(spec, Mapping) else spec
            for name, spec in _to_dict(fleet.get("servers")).items()
        }
        with_defaults = {key: workloads for key, workloads in (("servers", servers), ("clients", clients)) if workloads}
        return {**fleet, **with_defaults} if with_defaults else raw

    @field_validator("regions", mode="after")
    @classmethod
    def _check_regions(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        region = info.data.get("region", "")
        mistakes: list[Mistake] = []
        if value and region:
            mistakes.append(((), f"can't be combined with region ({region}); keep one"))
        if not value and region is None:
            mistakes.append(((PARENT, "region"), "missing; add region: europe-west1"))
        return raise_if_any(value, mistakes)

    @field_validator("servers", mode="after")
    @classmethod
    def _check_servers(cls, value: Mapping[str, Server], info: ValidationInfo) -> Mapping[str, Server]:
        return raise_if_any(value, [*_server_mistakes(value, info.data), *_lock_mistakes(value, info)])

    @field_validator("clients", mode="after")
    @classmethod
    def _check_clients(cls, value: Mapping[str, Client], info: ValidationInfo) -> Mapping[str, Client]:
        servers: Mapping[str, Server] = info.data.get("servers", {})
        mistakes = [*client_mistakes(value, servers, invalid_names(info, "servers"))] if "servers" in info.data else []
        mistakes += _registry_mistakes({"servers": servers, "clients": value}, info.data)
        mistakes += _service_name_mistakes({name: spec for name, spec in value.items() if name not in servers}, servers)
        mistakes += _lock_mistakes(value, info)
        for name, client in value.items():
            mistakes += [((name, *path), message) for path, message in _workload_mistakes(client, info.data)]
        return raise_if_any(value, mistakes)


def _server_mistakes(servers: Mapping[str, Server], fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    """Find mistakes between servers, and between a server and the fleet; *fleet* has no keys with mistakes."""
    yield from _service_name_mistakes(servers, {})
    yield from domains.domain_mistakes(servers, fleet)
    for name, server in servers.items():
        for path, message in (*_multi_region_mistakes(server, fleet), *_workload_mistakes(server, fleet)):
            yield (name, *path), message


def _service_name_mistakes(workloads: Mapping[str, Workload], others: Mapping[str, Workload]) -> Iterator[Mistake]:
    """Find workloads whose Cloud Run service has the name of another workload's, or of one in *others*."""
    used = {naming.service_name(name, spec.service_name): name for name, spec in others.items()}
    # Workloads with a default name come first, so that the mistake is at one whose user chose the name.
    for name, spec in sorted(workloads.items(), key=lambda item: item[1].service_name is not None):
        service = naming.service_name(name, spec.service_name)
        other = used.setdefault(service, name)
        if other != name:
            yield (name, "service_name"), f"{service} is the service of {other} already; write another"


def _multi_region_mistakes(server: Server, fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    regions: tuple[str, ...] = fleet.get("regions", ())
    if len(regions) < 2:
        return
    if server.domain is None:
        yield ("domain",), f"missing; {len(regions)} regions need one name in front of them, add domain: mcp.acme.dev"
    if server.sessions == "stateful":
        yield (
            ("sessions",),
            "stateful keeps a session in one instance, and there is one in each region; write stateless",
        )
    if "sse" in server.transports:
        yield ("transports",), "sse keeps its stream in one instance, and there is one in each region; leave it out"


def _workload_mistakes(spec: Workload, fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    """Find mistakes between a server or client and the fleet's keys."""
    yield from _image_mistakes(spec, fleet)
    yield from _organization_mistakes(spec, fleet)
    yield from _key_mistakes(spec, fleet)
    count = len({**fleet.get("labels", {}), **spec.labels})
    if count > MAX_LABELS:
        yield ("labels",), f"are {count} with the fleet's; a resource has at most {MAX_LABELS}, remove some"


def _key_mistakes(spec: Workload, fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    """Find a key that is not in the service's region (Cloud Run, "Using customer managed encryption keys")."""
    regions = fleet.get("regions") or ((fleet["region"],) if fleet.get("region") else ())
    if spec.encryption_key is None or not regions:
        return
    key_location = key_region(spec.encryption_key)
    if isinstance(spec, Server) and len(regions) > 1:
        yield (
            ("encryption_key",),
            f"is in {key_location}, and there are {len(regions)} regions; a key works in only one of them",
        )
    elif key_location != regions[0]:
        yield ("encryption_key",), f"is in {key_location} and the service in {regions[0]}; name a key of {regions[0]}"


def _lock_mistakes(workloads: Mapping[str, Workload], info: ValidationInfo) -> Iterator[Mistake]:
    """Find packages without a lock: profile `prod` installs only locked packages."""
    root: Path | None = cast("Mapping[str, Any]", info.context or {}).get("root")
    if info.data.get("profile") != "prod" or root is None:
        return
    for name, spec in workloads.items():
        if (mistake := lock_mistake(spec.source, root)) is not None:
            path, message = mistake
            yield (name, "source", *path), message


def _existing_images(spec: Workload) -> Iterator[tuple[tuple[str, ...], str]]:
    """The images that this program does not build, each with its path."""
    for name, sidecar in spec.all_sidecars.items():
        yield ("sidecars", name, "image"), sidecar.image
    if isinstance(spec.source, ExistingImage):
        yield ("source", "image"), spec.source.image


def _image_mistakes(spec: Workload, fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    for path, image in _existing_images(spec):
        if fleet.get("profile") == "prod" and not is_pinned(image):
            message = (
                f"{image} names a tag, which can move under a running service; in profile prod write the digest:"
                " …@sha256:DIGEST (docker buildx imagetools inspect shows it)"
            )
            yield path, message


def _registry_mistakes(workloads: Mapping[str, Mapping[str, Workload]], fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    """Find images of registries from which Cloud Run does not pull, with paths relative to the clients.

    All servers and clients are checked together, so that each message gives the same complete list of registries.
    """
    if "registry" not in fleet:
        return
    remote: tuple[str, ...] = fleet["registry"].remote
    hosts_by_path = {
        (section, name, *path): host_of(image)
        for section, section_workloads in workloads.items()
        for name, spec in section_workloads.items()
        for path, image in _existing_images(spec)
        if not is_pullable(image) and host_of(image) not in remote
    }
    hosts = [*dict.fromkeys((*remote, *hosts_by_path.values()))]
    advice = to_yaml({"remote": hosts if len(hosts) > 1 else hosts[0]}) if hosts else ""
    for path, host in hosts_by_path.items():
        message = f"Cloud Run does not pull from {host}; write registry: {advice} in the fleet, and the image comes"
        yield (PARENT, *path), f"{message} through Artifact Registry"


def _organization_mistakes(spec: Workload, fleet: Mapping[str, Any]) -> Iterator[Mistake]:
    if not isinstance(spec.access, IapAccess) or fleet.get("organization", "") is not None:
        return
    if spec.access.iap.oauth_client is None:
        message = (
            "accepts only members of the project's organization with Google's OAuth client, and the fleet names no"
            " organization; add organization: NUMBER to the fleet, or an oauth_client here"
        )
        yield ("access", "iap"), message


def _to_dict(value: Any) -> dict[Any, Any]:
    return dict(cast("Mapping[Any, Any]", value)) if isinstance(value, Mapping) else {}
