"""What all servers of a stack share: the APIs that are switched on, the registry of images, the project's number.

It does not own the project, its billing or its network: those outlive a stack.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.alone import Arguments, read_foundation
from pulumi_mcpfleet.components.arguments import FoundationArgs
from pulumi_mcpfleet.components.cloud_build import CloudBuild, CloudBuildArgs
from pulumi_mcpfleet.components.prerequisites import Need, check
from pulumi_mcpfleet.fleet import (
    CloudBuildOptions,
    ExistingImage,
    Fleet,
    IapAccess,
    Registry,
    Server,
    Workload,
    builds_in_cloud,
)
from pulumi_mcpfleet.fleet.roles import role_names
from pulumi_mcpfleet.tokens import FOUNDATION

FIRST: Final = "cloudresourcemanager"
"""The provider asks it for the project after it has enabled any other, so it is enabled before them."""

MESH: Final = ("compute", "dns", "networksecurity", "networkservices", "trafficdirector")
"""What Cloud Service Mesh for Cloud Run asks for, and Compute Engine for the backend services."""

ALWAYS: Final = ("artifactregistry", "iam", "iamcredentials", "run")

CLOUD_BUILD: Final = ("cloudbuild", "logging", "storage")
"""What building in the cloud needs: the builds, their logs, the bucket of the sources."""

TOKEN_USER: Final = "oauth2accesstoken"  # noqa: S105, a user name
"""Artifact Registry's user name for "the password is an OAuth access token"."""


@dataclass(frozen=True, kw_only=True)
class FoundationInFleet:
    """Where a fleet is, what it needs, and the labels of what it shares.

    Attributes:
        project: The Google Cloud project.
        region: Where the images are.
        apis: The APIs to enable, besides Resource Manager, by their first word.
        registry: The repository, and the registry that it is in front of.
        cloud_build: How Cloud Build builds, where `apis` has it.
        platform: For which machine images are built, as the fleet has it.
        root: The folder of Pulumi.yaml, from which sources are looked for; by default that of the running program.
        labels: Labels on what can carry them.
        needs: What has to exist before anything but the APIs is touched.
        builds: Whether images are built, and so are kept in a repository.
    """

    project: str
    region: str
    apis: Sequence[str] = ALWAYS
    registry: Registry = field(default_factory=Registry)
    cloud_build: CloudBuildOptions = field(default_factory=CloudBuildOptions)
    platform: str = "linux/amd64"
    root: Path = field(default_factory=Path.cwd)
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    needs: Sequence[Need] = ()
    builds: bool = True


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """What a client needs to push to the stack's registry; the password lives for an hour at most."""

    host: pulumi.Output[str]
    username: str
    password: pulumi.Output[str]


class Foundation(pulumi.ComponentResource):
    """What several servers and clients share: the enabled APIs, and the Docker repositories of their images."""

    project: str
    """The Google Cloud project."""

    root: Path
    """The folder of Pulumi.yaml, from which sources are looked for."""

    platform: str
    """For which machine images are built; `native`: for that of the machine that builds."""

    apis: tuple[pulumi.Input[pulumi.Resource], ...]
    """To depend on: nothing else of a stack can be created before them, and before what it needs was found."""

    project_number: pulumi.Output[str]
    """Part of every service's URL. Looked up once the APIs are enabled: unknown in the preview of a new stack, which
    so needs no cloud."""

    registry_uri: pulumi.Output[str] | None
    """The repository's address for images, as Artifact Registry itself gives it; None where none are built."""

    remote_uris: Mapping[str, pulumi.Output[str]]
    """The addresses of the repositories in front of other registries, by the hosts of these."""

    registry_login: RegistryLogin | None
    """What pushes to that repository."""

    cloud_build: CloudBuild | None
    """What builds images in the cloud, where the fleet uses it."""

    iap_agent: pulumi.Output[str] | None
    """The principal as which Identity-Aware Proxy calls services, where the fleet uses it."""

    def __init__(self, name: str, args: FoundationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        found = read_foundation(name, args)
        super().__init__(FOUNDATION, name, None, opts)
        fleet = found.fleet
        self._create(
            name,
            FoundationInFleet(
                project=found.project,
                region=fleet.all_regions[0],
                registry=fleet.registry,
                cloud_build=fleet.cloud_build,
                platform=fleet.platform,
                labels=fleet.labels,
            ),
        )

    @classmethod
    def in_fleet(cls, name: str, args: FoundationInFleet, opts: pulumi.ResourceOptions | None = None) -> Self:
        """The foundation of a fleet, whose arguments are checked already."""
        component = cls.__new__(cls)
        pulumi.ComponentResource.__init__(component, FOUNDATION, name, None, opts)
        component._create(name, args)
        return component

    def enable(self, apis: Iterable[str]) -> None:
        """Enable the APIs that are not enabled yet, and create what goes with them."""
        more = [api for api in apis if api not in self._enabled]
        if not more:
            return
        after_first = pulumi.ResourceOptions(parent=self, depends_on=[self._enabled[FIRST]])
        self._enabled |= {api: _enabled(self._name, api, self._args, after_first) for api in more}
        self.apis = (*self.apis, *(self._enabled[api] for api in more))
        if "cloudbuild" in more and self._repository_id is not None:
            self.cloud_build = self._cloud_build(self._repository_id)
        if "iap" in more:
            self.iap_agent = self._iap_agent()

    def _create(self, name: str, args: FoundationInFleet) -> None:
        child = pulumi.ResourceOptions(parent=self)
        self._name, self._args = name, args
        self.project, self.root, self.platform = args.project, args.root, args.platform
        first = _enabled(name, FIRST, args, child)
        after_first = pulumi.ResourceOptions(parent=self, depends_on=[first])
        self._enabled = {FIRST: first} | {api: _enabled(name, api, args, after_first) for api in args.apis}
        enabled = tuple(self._enabled.values())
        self.apis = (*enabled, asyncio.ensure_future(_found(args.needs, enabled, self))) if args.needs else enabled
        self.project_number = gcp.organizations.get_project_output(
            project_id=args.project, opts=pulumi.InvokeOutputOptions(parent=self, depends_on=enabled)
        ).number

        self.registry_uri = self.registry_login = self._repository_id = None
        if args.builds:
            self._keep_images(name, args)
        self.remote_uris = {
            # The first is called as the only one was, so that a second changes nothing of it.
            upstream: self._in_front_of(upstream, name, args, also=index > 0)
            for index, upstream in enumerate(args.registry.remote)
        }
        self.cloud_build = None
        if "cloudbuild" in args.apis and self._repository_id is not None:
            self.cloud_build = self._cloud_build(self._repository_id)
        self.iap_agent = self._iap_agent() if "iap" in args.apis else None
        self.register_outputs({"registry_uri": self.registry_uri})

    def _keep_images(self, name: str, args: FoundationInFleet) -> None:
        repository = self._repository(name, args)
        self._repository_id = repository.repository_id
        self.registry_uri = repository.registry_uri
        # The provider's own token: whoever may deploy may push, and no key is stored anywhere. A new token
        # at each run is not a change to docker-build, which ignores passwords in its diff.
        token = gcp.organizations.get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self)).access_token
        self.registry_login = RegistryLogin(
            host=self.registry_uri.apply(naming.registry_host),
            username=TOKEN_USER,
            password=pulumi.Output.secret(token),
        )

    def _after_apis(self) -> pulumi.ResourceOptions:
        # A repository in another region is another one of the same name. Created before the old one is deleted, a
        # change of region that fails half way could not be taken back: the old one would be in its own way (409).
        return pulumi.ResourceOptions(parent=self, depends_on=self.apis, delete_before_replace=True)

    def _repository(self, name: str, args: FoundationInFleet) -> gcp.artifactregistry.Repository:
        return gcp.artifactregistry.Repository(
            name,
            project=args.project,
            location=args.region,
            repository_id=args.registry.repository,
            format="DOCKER",
            description="Images of the MCP servers that mcpfleet builds",
            labels=args.labels or None,
            # A keep policy alone deletes nothing: it only takes versions out of what a delete policy matches.
            # Tagged versions are left alone, so whoever wants to keep a version for good gives it a tag.
            cleanup_policies=[
                {"id": "delete-untagged", "action": "DELETE", "condition": {"tag_state": "UNTAGGED"}},
                {"id": "keep-newest", "action": "KEEP", "most_recent_versions": {"keep_count": args.registry.keep}},
            ],
            cleanup_policy_dry_run=args.registry.dry_run,
            opts=self._after_apis(),
        )

    def _in_front_of(self, upstream: str, name: str, args: FoundationInFleet, *, also: bool) -> pulumi.Output[str]:
        """A repository that fetches from *upstream* what is asked of it, and keeps it."""
        repository = gcp.artifactregistry.Repository(
            f"{name}-remote-{upstream}" if also else f"{name}-remote",
            project=args.project,
            location=args.region,
            repository_id=naming.remote_repository_id(args.registry.repository, upstream if also else None),
            format="DOCKER",
            mode="REMOTE_REPOSITORY",
            description=f"Images of {upstream}, on their way to Cloud Run",
            labels=args.labels or None,
            remote_repository_config={
                "description": upstream,
                "docker_repository": {"custom_repository": {"uri": f"https://{upstream}"}},
            },
            opts=self._after_apis(),
        )
        return repository.registry_uri

    def _cloud_build(self, repository: pulumi.Output[str]) -> CloudBuild:
        args = self._args
        return CloudBuild(
            f"{self._name}-build",
            CloudBuildArgs(
                project=args.project,
                region=args.region,
                repository_id=args.registry.repository,
                repository=repository,
                options=args.cloud_build,
                platform=args.platform,
                after=self.apis,
                labels=args.labels,
            ),
            pulumi.ResourceOptions(parent=self),
        )

    def _iap_agent(self) -> pulumi.Output[str]:
        agent = gcp.projects.ServiceIdentity(
            f"{self._name}-iap", project=self._args.project, service=naming.api_host("iap"), opts=self._after_apis()
        )
        return agent.member


def foundation_alone(name: str, args: Arguments, shared: Foundation | None, parent: pulumi.Resource) -> Foundation:
    """The foundation of the server or client *name* that is no part of a fleet: the one that it shares, or its own.

    Args:
        name: The component's name.
        args: Its arguments.
        shared: The foundation that it shares with others.
        parent: The component.
    """
    spec = next(iter(args.fleet.clients.values()), None) or args.fleet.servers[name]
    apis = tuple(sorted({*ALWAYS, *_of(spec)}))
    if shared is not None:
        shared.enable(apis)
        return shared
    registry = args.fleet.registry
    if "repository" not in registry.model_fields_set:
        # Each server has its own; two of one name would be one to Google, and the second could not be created.
        registry = registry.model_copy(update={"repository": f"{registry.repository}-{name}"})
    return Foundation.in_fleet(
        name,
        FoundationInFleet(
            project=args.project,
            region=args.fleet.all_regions[0],
            apis=apis,
            registry=registry,
            cloud_build=args.fleet.cloud_build,
            platform=args.fleet.platform,
            labels=spec.labels,
            builds=not isinstance(spec.source, ExistingImage),
        ),
        pulumi.ResourceOptions(parent=parent),
    )


async def _found(
    needs: Sequence[Need], apis: Sequence[gcp.projects.Service], parent: pulumi.Resource
) -> pulumi.Resource:
    """One of *apis*, once all of *needs* are found; in the preview of a new stack no cloud is asked.

    Raises:
        pulumi.RunError: Something is missing.
    """
    if all(await asyncio.gather(*(api.id.is_known() for api in apis))):
        await check(needs, parent)
    return apis[0]


def _enabled(name: str, api: str, args: FoundationInFleet, child: pulumi.ResourceOptions) -> gcp.projects.Service:
    return gcp.projects.Service(
        f"{name}-{api}",
        project=args.project,
        service=naming.api_host(api),
        # The project may use the API for other things; a stack that goes away must not take it along.
        disable_on_destroy=False,
        opts=child,
    )


def apis_of(fleet: Fleet) -> tuple[str, ...]:
    """The APIs besides `FIRST`, each once and in a fixed order."""
    all_of_it = (*fleet.servers.values(), *fleet.clients.values())
    used = (api for spec in all_of_it for api in _of(spec))
    mesh = MESH if fleet.mesh[0] else ()
    shared = fleet.load_balancer != "per-server" and any(one.domain for one in fleet.servers.values())
    return tuple(sorted({*ALWAYS, *used, *mesh, *(("certificatemanager",) if shared else ())}))


def _of(spec: Workload) -> Iterator[str]:
    if builds_in_cloud(spec.source):
        yield from CLOUD_BUILD
    client = spec.access.iap.oauth_client if isinstance(spec.access, IapAccess) else None
    if spec.all_secrets or client is not None:
        yield "secretmanager"
    if spec.vpc is not None:
        yield "compute" if spec.vpc.connector is None else "vpcaccess"
    if spec.cloudsql_instances:
        yield "sqladmin"
    if spec.encryption_key is not None:
        yield "cloudkms"
    if spec.binary_authorization is not None:
        yield "binaryauthorization"
    if spec.buckets:
        yield "storage"
    if isinstance(spec.access, IapAccess):
        yield "iap"
    # Models, which an agent asks as its account.
    if any(role.startswith("roles/aiplatform.") for role in role_names(spec.roles)):
        yield "aiplatform"
    if isinstance(spec, Server):
        if spec.domain is not None:
            yield "compute"
        if spec.agent_registry is not None:
            yield "agentregistry"
