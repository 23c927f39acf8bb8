"""Resources that the servers of a stack share: enabled APIs, the image repository, and the project's number.

The project, its billing and its network belong to no stack, and are not created here.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pulumi
import pulumi_gcp as gcp

from pulumi_mcpfleet import naming
from pulumi_mcpfleet.components.arguments import FoundationArgs
from pulumi_mcpfleet.components.cloud_build import CloudBuild, CloudBuildArgs
from pulumi_mcpfleet.components.prerequisites import Prerequisite, check_prerequisites
from pulumi_mcpfleet.components.standalone import ValidatedArguments, read_foundation
from pulumi_mcpfleet.fleet import (
    CloudBuildOptions,
    ExistingImage,
    Fleet,
    IapAccess,
    LoginAccess,
    Registry,
    Server,
    Workload,
    builds_in_cloud,
)
from pulumi_mcpfleet.fleet.roles import role_names
from pulumi_mcpfleet.tokens import FOUNDATION

FIRST_API: Final = "cloudresourcemanager"
"""Enabled before the others, because the provider reads the project with it after it has enabled any other API."""

MESH_APIS: Final = ("compute", "dns", "networksecurity", "networkservices", "trafficdirector")
"""The APIs that Cloud Service Mesh for Cloud Run requires, and Compute Engine for the backend services."""

BASE_APIS: Final = ("artifactregistry", "iam", "iamcredentials", "run")

CLOUD_BUILD_APIS: Final = ("cloudbuild", "logging", "storage")
"""The APIs for builds with Cloud Build: the builds, their logs, and the bucket of the sources."""

TOKEN_USER: Final = "oauth2accesstoken"  # noqa: S105, a user name
"""Artifact Registry's user name if the password is an OAuth access token."""


@dataclass(frozen=True, kw_only=True)
class FoundationInFleet:
    """The arguments of the foundation of a fleet.

    Attributes:
        project: The Google Cloud project.
        region: The region of the image repository.
        apis: The APIs to enable, besides Resource Manager, by the first part of their host names.
        registry: The image repository, and the registries that have a remote repository.
        cloud_build: The options for builds with Cloud Build.
        platform: The platform of built images, as in the fleet.
        root: The folder of Pulumi.yaml, to which paths of sources are relative; by default the working directory.
        labels: Labels on the resources that can have some.
        prerequisites: The resources that must exist; they are looked up before anything but the APIs is created.
        builds: True if images are built, so that a repository is needed.
    """

    project: str
    region: str
    apis: Sequence[str] = BASE_APIS
    registry: Registry = field(default_factory=Registry)
    cloud_build: CloudBuildOptions = field(default_factory=CloudBuildOptions)
    platform: str = "linux/amd64"
    root: Path = field(default_factory=Path.cwd)
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    prerequisites: Sequence[Prerequisite] = ()
    builds: bool = True


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """The credentials to push to the stack's registry. The password is valid for an hour at most."""

    host: pulumi.Output[str]
    username: str
    password: pulumi.Output[str]


class Foundation(pulumi.ComponentResource):
    """Resources that several servers and clients share: the enabled APIs, and the repositories of their images."""

    project: str
    """The Google Cloud project."""

    root: Path
    """The folder of Pulumi.yaml, to which paths of sources are relative."""

    platform: str
    """The platform of built images; `native` is that of the machine that builds."""

    apis: tuple[pulumi.Input[pulumi.Resource], ...]
    """Dependencies of all other resources: the enabled APIs, and the check of the prerequisites."""

    project_number: pulumi.Output[str]
    """The number in every service's URL. It is looked up when the APIs are enabled, so the preview of a new stack does
    not know it, and needs no cloud."""

    registry_uri: pulumi.Output[str] | None
    """The repository's address, as Artifact Registry returns it; None if no images are built."""

    remote_uris: Mapping[str, pulumi.Output[str]]
    """The addresses of the remote repositories, by the host of their upstream registry."""

    registry_login: RegistryLogin | None
    """The credentials to push to the repository; None if no images are built."""

    cloud_build: CloudBuild | None
    """The Cloud Build resources; None if the fleet doesn't use Cloud Build."""

    iap_agent: pulumi.Output[str] | None
    """The principal as which Identity-Aware Proxy calls services; None if the fleet doesn't use it."""

    def __init__(self, name: str, args: FoundationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        arguments = read_foundation(name, args)
        super().__init__(FOUNDATION, name, None, opts)
        fleet = arguments.fleet
        self._create(
            name,
            FoundationInFleet(
                project=arguments.project,
                region=fleet.all_regions[0],
                registry=fleet.registry,
                cloud_build=fleet.cloud_build,
                platform=fleet.platform,
                labels=fleet.labels,
            ),
        )

    @classmethod
    def in_fleet(cls, name: str, args: FoundationInFleet, opts: pulumi.ResourceOptions | None = None) -> Self:
        """Create the foundation of a fleet, whose arguments are already validated."""
        component = cls.__new__(cls)
        pulumi.ComponentResource.__init__(component, FOUNDATION, name, None, opts)
        component._create(name, args)
        return component

    def enable(self, apis: Iterable[str]) -> None:
        """Enable the APIs that are not enabled yet, and create the resources that come with them."""
        new_apis = [api for api in apis if api not in self._enabled]
        if not new_apis:
            return
        after_first = pulumi.ResourceOptions(parent=self, depends_on=[self._enabled[FIRST_API]])
        self._enabled |= {api: _enable(self._name, api, self._args, after_first) for api in new_apis}
        self.apis = (*self.apis, *(self._enabled[api] for api in new_apis))
        if "cloudbuild" in new_apis and self._repository_id is not None:
            self.cloud_build = self._create_cloud_build(self._repository_id)
        if "iap" in new_apis:
            self.iap_agent = self._create_iap_agent()

    def _create(self, name: str, args: FoundationInFleet) -> None:
        child = pulumi.ResourceOptions(parent=self)
        self._name, self._args = name, args
        self.project, self.root, self.platform = args.project, args.root, args.platform
        first_api = _enable(name, FIRST_API, args, child)
        after_first = pulumi.ResourceOptions(parent=self, depends_on=[first_api])
        self._enabled = {FIRST_API: first_api} | {api: _enable(name, api, args, after_first) for api in args.apis}
        enabled = tuple(self._enabled.values())
        self.apis = (
            (*enabled, asyncio.ensure_future(_check_after(args.prerequisites, enabled, self)))
            if args.prerequisites
            else enabled
        )
        self.project_number = gcp.organizations.get_project_output(
            project_id=args.project, opts=pulumi.InvokeOutputOptions(parent=self, depends_on=enabled)
        ).number

        self.registry_uri = self.registry_login = self._repository_id = None
        if args.builds:
            self._create_repository(name, args)
        self.remote_uris = {
            # The first has the name of an only one, so adding a second doesn't replace it.
            upstream: self._remote_repository(upstream, name, args, is_first=index == 0)
            for index, upstream in enumerate(args.registry.remote)
        }
        self.cloud_build = None
        if "cloudbuild" in args.apis and self._repository_id is not None:
            self.cloud_build = self._create_cloud_build(self._repository_id)
        self.iap_agent = self._create_iap_agent() if "iap" in args.apis else None
        self.register_outputs({"registry_uri": self.registry_uri})

    def _create_repository(self, name: str, args: FoundationInFleet) -> None:
        repository = self._image_repository(name, args)
        self._repository_id = repository.repository_id
        self.registry_uri = repository.registry_uri
        # The provider's own token, so no key is stored, and the deployer's permissions decide about pushes. The
        # provider of builds ignores passwords in its diff, so the new token of each run is not a change.
        token = gcp.organizations.get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self)).access_token
        self.registry_login = RegistryLogin(
            host=self.registry_uri.apply(naming.registry_host),
            username=TOKEN_USER,
            password=pulumi.Output.secret(token),
        )

    def _after_apis(self) -> pulumi.ResourceOptions:
        # If the region changes, the new repository has the same name. If it were created before the old one is deleted,
        # an update that failed in between could not be reverted: the names would collide (409).
        return pulumi.ResourceOptions(parent=self, depends_on=self.apis, delete_before_replace=True)

    def _image_repository(self, name: str, args: FoundationInFleet) -> gcp.artifactregistry.Repository:
        return gcp.artifactregistry.Repository(
            name,
            project=args.project,
            location=args.region,
            repository_id=args.registry.repository,
            format="DOCKER",
            description="Images of the MCP servers that mcpfleet builds",
            labels=args.labels or None,
            # A keep policy alone deletes nothing: it exempts versions from a delete policy. Tagged versions are never
            # deleted, so users can keep a version with a tag.
            cleanup_policies=[
                {"id": "delete-untagged", "action": "DELETE", "condition": {"tag_state": "UNTAGGED"}},
                {"id": "keep-newest", "action": "KEEP", "most_recent_versions": {"keep_count": args.registry.keep}},
            ],
            cleanup_policy_dry_run=args.registry.dry_run,
            opts=self._after_apis(),
        )

    def _remote_repository(
        self, upstream: str, name: str, args: FoundationInFleet, *, is_first: bool
    ) -> pulumi.Output[str]:
        """Create a remote repository, which fetches images from *upstream* and caches them; return its address."""
        repository = gcp.artifactregistry.Repository(
            f"{name}-remote" if is_first else f"{name}-remote-{upstream}",
            project=args.project,
            location=args.region,
            repository_id=naming.remote_repository_id(args.registry.repository, None if is_first else upstream),
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

    def _create_cloud_build(self, repository: pulumi.Output[str]) -> CloudBuild:
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

    def _create_iap_agent(self) -> pulumi.Output[str]:
        agent = gcp.projects.ServiceIdentity(
            f"{self._name}-iap", project=self._args.project, service=naming.api_host("iap"), opts=self._after_apis()
        )
        return agent.member


def standalone_foundation(
    name: str, args: ValidatedArguments, shared: Foundation | None, parent: pulumi.Resource
) -> Foundation:
    """Return the foundation of the standalone server or client *name*: the shared one, or a new one.

    Args:
        name: The component's name.
        args: The component's arguments.
        shared: The foundation that the program gives it; None to create one.
        parent: The component.
    """
    spec = next(iter(args.fleet.clients.values()), None) or args.fleet.servers[name]
    apis = tuple(sorted({*BASE_APIS, *_workload_apis(spec)}))
    if shared is not None:
        shared.enable(apis)
        return shared
    registry = args.fleet.registry
    if "repository" not in registry.model_fields_set:
        # Each server has its own repository, with a name of its own: Google refuses a second of the same name.
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
            builds=not isinstance(spec.source, ExistingImage) or isinstance(spec.access, LoginAccess),
        ),
        pulumi.ResourceOptions(parent=parent),
    )


async def _check_after(
    prerequisites: Sequence[Prerequisite], apis: Sequence[gcp.projects.Service], parent: pulumi.Resource
) -> pulumi.Resource:
    """Check *prerequisites* when *apis* are enabled, and return one of *apis*. A new stack's preview checks nothing.

    Raises:
        pulumi.RunError: Prerequisites are missing.
    """
    if all(await asyncio.gather(*(api.id.is_known() for api in apis))):
        await check_prerequisites(prerequisites, parent)
    return apis[0]


def _enable(name: str, api: str, args: FoundationInFleet, child: pulumi.ResourceOptions) -> gcp.projects.Service:
    return gcp.projects.Service(
        f"{name}-{api}",
        project=args.project,
        service=naming.api_host(api),
        # The project may use the API for other things, so it stays enabled when the stack is destroyed.
        disable_on_destroy=False,
        opts=child,
    )


def required_apis(fleet: Fleet) -> tuple[str, ...]:
    """Return the APIs that *fleet* needs besides `FIRST_API`, sorted."""
    workloads = (*fleet.servers.values(), *fleet.clients.values())
    used = (api for spec in workloads for api in _workload_apis(spec))
    mesh = MESH_APIS if fleet.mesh[0] else ()
    shared = fleet.load_balancer != "per-server" and any(server.domain for server in fleet.servers.values())
    return tuple(sorted({*BASE_APIS, *used, *mesh, *(("certificatemanager",) if shared else ())}))


def _workload_apis(spec: Workload) -> Iterator[str]:
    if builds_in_cloud(spec.source):
        yield from CLOUD_BUILD_APIS
    client = spec.access.iap.oauth_client if isinstance(spec.access, IapAccess) else None
    if spec.all_secrets or client is not None:
        yield "secretmanager"
    if isinstance(spec.access, LoginAccess):
        yield "storage"
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
    # An agent calls models as its service account.
    if any(role.startswith("roles/aiplatform.") for role in role_names(spec.roles)):
        yield "aiplatform"
    if isinstance(spec, Server):
        if spec.domain is not None:
            yield "compute"
        if spec.agent_registry is not None:
            yield "agentregistry"
