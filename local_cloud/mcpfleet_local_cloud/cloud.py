"""The composition root: creates every part of one local cloud from its settings and connects the parts."""

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx2
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from mcpfleet_local_cloud import registry
from mcpfleet_local_cloud.bootstrap import Bootstrap
from mcpfleet_local_cloud.data_plane.contract import DataPlane, ServiceEndpoint
from mcpfleet_local_cloud.front_end.balancer import Balancer, create_balancer_app
from mcpfleet_local_cloud.front_end.certificates import CertificateAuthority
from mcpfleet_local_cloud.front_end.container_router import ContainerRouter, with_iap_keys, with_storage
from mcpfleet_local_cloud.front_end.iap import IdentityAwareProxy, Signer
from mcpfleet_local_cloud.front_end.mesh import Mesh, create_proxy
from mcpfleet_local_cloud.front_end.routing import route_by_port
from mcpfleet_local_cloud.identity.external import IssuerKeys
from mcpfleet_local_cloud.identity.groups import Groups
from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.identity.tokens import Claims, Identity
from mcpfleet_local_cloud.registry.catalog import MANIFEST
from mcpfleet_local_cloud.rest.errors import not_found
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.rest.parameters import bind_routes
from mcpfleet_local_cloud.services import (
    agentregistry,
    artifactregistry,
    billing,
    certificatemanager,
    cloudbuild,
    compute,
    dns,
    iamcredentials,
    networkservices,
    oauth,
    run,
    secretmanager,
    storage,
    sts,
)
from mcpfleet_local_cloud.services.artifactregistry.model import KIND as REPOSITORY
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.certificatemanager.model import KIND as CERTIFICATE
from mcpfleet_local_cloud.services.compute.model import KIND as COMPUTE
from mcpfleet_local_cloud.services.dns.model import RECORD, ZONE
from mcpfleet_local_cloud.services.iam.keys import AccountKeys
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.services.iam.pool_routes import routes as pool_routes
from mcpfleet_local_cloud.services.iam.pools import Pools
from mcpfleet_local_cloud.services.iam.routes import routes as iam_routes
from mcpfleet_local_cloud.services.iap.model import KIND as IAP_SETTINGS
from mcpfleet_local_cloud.services.iap.model import Iap
from mcpfleet_local_cloud.services.iap.routes import routes as iap_routes
from mcpfleet_local_cloud.services.instance_data import CloudInstanceData
from mcpfleet_local_cloud.services.logging.model import LogEntries
from mcpfleet_local_cloud.services.logging.routes import routes as logging_routes
from mcpfleet_local_cloud.services.networkservices.model import MESH, ROUTE
from mcpfleet_local_cloud.services.resourcemanager.model import Projects
from mcpfleet_local_cloud.services.resourcemanager.routes import routes as resourcemanager_routes
from mcpfleet_local_cloud.services.serviceusage.model import ServiceUsage
from mcpfleet_local_cloud.services.serviceusage.routes import routes as serviceusage_routes
from mcpfleet_local_cloud.state.folder import Settings, State, Vault
from mcpfleet_local_cloud.state.store import Document, Store

if TYPE_CHECKING:
    from mcpfleet_local_cloud.data_plane import DockerDataPlane

# The account with which Cloud Run pulls images, as on Google.
_RUN_AGENT_EMAIL: Final = "service-{}@serverless-robot-prod.iam.gserviceaccount.com"
# The label that the provider sets on the resources that it creates, unless that is switched off.
ATTRIBUTION_LABEL: Final = "goog-pulumi-provisioned"
_PULL_SCOPE: Final = "https://www.googleapis.com/auth/cloud-platform"


class Cloud:
    """One local cloud. Call `start` before use and `stop` after. Its state survives a kill.

    Args:
        settings: the address, project and state directory of the cloud.
        data_plane: runs containers; by default Docker on this machine.
        worker: runs the steps of builds; by default the docker command of this machine.
        credentials: the folder for the credential files; by default next to the state directory.
        issuers: the HTTP transport to the issuers of external identities; by default the network.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        data_plane: DataPlane | None = None,
        worker: cloudbuild.Worker | None = None,
        credentials: Path | None = None,
        issuers: httpx2.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings: Final = settings
        self.state: Final = State(settings.state)
        self.store: Final = Store(settings.state / "cloud.db")
        self.ready: Final = asyncio.Event()
        self._credentials = credentials or settings.state.parent / "credentials"
        self.identity: Final = Identity(settings.state / "keys", clock)
        self.operations: Final = Operations(self.store, clock)
        self.projects: Final = Projects(self.store)
        self.usage: Final = ServiceUsage(self.store)
        self.accounts: Final = ServiceAccounts(self.store)
        self.keys: Final = AccountKeys(self.store, settings, clock)
        self.people: Final = oauth.People(self.store)
        self.pools: Final = Pools(self.store, clock)
        self.groups: Final = Groups(self.store)
        self.policies: Final = Policies(self.store, self.accounts.exists, self._is_missing_pool, self.groups.groups_of)
        self.authorizer: Final = ApiAuthorizer(
            settings=settings,
            identity=self.identity,
            accounts=self.accounts,
            people=self.people,
            pools=self.pools,
            policies=self.policies,
            projects=self.projects,
            usage=self.usage,
            clock=clock,
        )
        self._tokens = oauth.TokenEndpoint(
            settings=settings, identity=self.identity, accounts=self.accounts, people=self.people, clock=clock
        )
        self._exchange = sts.TokenExchange(self.pools, IssuerKeys(clock, issuers), self.identity, clock)
        self._bootstrap = Bootstrap(
            settings=settings,
            projects=self.projects,
            usage=self.usage,
            accounts=self.accounts,
            keys=self.keys,
            people=self.people,
            policies=self.policies,
            clock=clock,
        )
        self.catalog: Final = registry.Catalog(self.store, registry.BlobStore(settings.state / "registry"), clock)
        self.repositories: Final = artifactregistry.ArtifactRegistry(
            self.store,
            self.catalog,
            self.authorizer,
            self._registry_address,
            clock,
            publisher_token=self.state.admin_token,
        )
        self.secrets: Final = secretmanager.SecretManager(
            self.store,
            Vault(settings.state / "keys"),
            lambda project: self.projects.get(project)["projectNumber"],
            clock,
        )
        self.storage: Final = storage.Storage(self.store, settings.state / "storage", clock)
        self.entries: Final = LogEntries(settings.state / "builds", clock)
        self.builds: Final = cloudbuild.Builds(
            self.store,
            self.storage,
            self.entries,
            worker or self._docker_worker(),
            allows=self.policies.allows,
            token=lambda email: self.identity.mint_access_token(email=email, scopes=[_PULL_SCOPE])[0],
            clock=clock,
        )
        self.compute: Final = compute.Compute(
            self.store,
            self.state.cloud_id,
            lambda project: self.usage.is_enabled(self.projects.get(project), "compute.googleapis.com"),
            lambda path: self.store.get(CERTIFICATE, path) is not None,
            clock,
        )
        self.certificates: Final = certificatemanager.CertificateManager(
            self.store, self.compute.targets, self.compute.find_dependents, clock
        )
        self.iap: Final = Iap(self.store)
        self._identity_aware_proxy = IdentityAwareProxy(
            self.iap, Signer(settings.state / "keys", clock), settings.project_number
        )
        self.authority: Final = CertificateAuthority(settings.state / "ca")
        self.dns: Final = dns.Dns(self.store, lambda network: self.compute.find(network) is not None, clock)
        self.networkservices: Final = networkservices.NetworkServices(self.store, self.compute.find, clock)
        self.compute.add_user_lookup(self.networkservices.find_route_to)
        self.mesh: Final = Mesh(
            zones=self.dns,
            routing=self.networkservices,
            compute=self.compute,
            find_endpoint=self._find_endpoint,
            policies=self.policies,
            enabled=lambda project, api: self.usage.is_enabled(self.projects.get(project), api),
            token=lambda account, audience: self.identity.mint_id_token(
                email=account, subject=self._unique_id(account), audience=audience
            ),
            clock=clock,
        )
        self._instance_data = CloudInstanceData(
            self.secrets, self.storage, self.policies, self.projects, self.mesh.check
        )
        self._clock = clock
        self._docker = None if data_plane else self._docker_data_plane()
        plane = data_plane or self._docker
        assert plane is not None  # noqa: S101 - one of the two is set
        self.data_plane: Final[DataPlane] = plane
        self.run: Final = run.RunModel(
            self.store,
            self.operations,
            plane,
            self.policies,
            self._registry_address,
            accounts=self.accounts,
            instance_data=self._instance_data,
            networks=self.compute,
            meshes=self.networkservices,
        )
        self.balancer: Final = Balancer(self.compute, self.certificates, self.run.find_endpoint)
        if self._docker is not None:
            self.secrets.watch(self._docker.refresh)

    @property
    def version(self) -> str:
        """The version of mcpfleet that this process runs."""
        try:
            return version("mcpfleet")
        except PackageNotFoundError:
            return "0"

    def routes(self) -> list[BaseRoute]:
        """The routes of every API at its prefix, and those of the registry at the root, where clients expect it."""
        apis: list[BaseRoute] = [
            *serviceusage_routes(self.usage, self.operations, self.authorizer),
            *resourcemanager_routes(self.projects, self.policies, self.authorizer),
            *iam_routes(self.accounts, self.keys, self.policies, self.authorizer),
            *pool_routes(self.pools, self.operations, self.authorizer),
            *sts.routes(self._exchange, self.authorizer),
            *iamcredentials.routes(self.identity, self.accounts, self.authorizer, self._clock),
            *billing.routes(self.authorizer),
            *oauth.routes(self._tokens, self.identity),
            *artifactregistry.routes(self.repositories, self.operations, self.authorizer, self.policies),
            *secretmanager.routes(self.secrets, self.policies, self.authorizer),
            *iap_routes(self.iap, self._identity_aware_proxy, self.policies, self.authorizer),
            *agentregistry.routes(self.store, self.operations, self.authorizer),
            *compute.routes(self.compute, self.authorizer),
            *certificatemanager.routes(self.certificates, self.operations, self.authorizer),
            *dns.routes(self.dns, self.authorizer),
            *networkservices.routes(self.networkservices, self.operations, self.authorizer),
            *cloudbuild.routes(self.builds, self.accounts, self.authorizer),
            *logging_routes(self.entries, self.authorizer),
            *self.storage_routes(),
            *run.routes(self.run, self.authorizer),
        ]
        return [*bind_routes(apis), *registry.routes(self.catalog, self.repositories)]

    def storage_routes(self) -> list[BaseRoute]:
        """The routes of Cloud Storage's API."""
        return storage.routes(self.storage, self.policies, self.authorizer)

    async def start(
        self,
        registry: ASGIApp | None = None,
        storage: ASGIApp | None = None,
        on_opened: Callable[[], None] = lambda: None,
    ) -> None:
        """Create the initial content, then continue what an earlier process left unfinished.

        Args:
            registry: the app that Docker reaches through the gateway container.
            storage: the app with Cloud Storage, for containers.
            on_opened: called when the data plane is ready to run services.

        Raises:
            OpenError: this machine cannot run containers.
        """
        self._bootstrap.create_project()
        self._bootstrap.write_credentials(self._credentials)
        self.operations.open()
        self.catalog.collect_garbage()
        self.builds.recover()
        if self._docker is not None:
            await self._open_data_plane(self._docker, registry, storage)
        on_opened()
        await self.run.recover()
        if self._docker is not None:
            await self._docker.sweep(self.run.workloads())
        self.ready.set()

    async def stop(self) -> None:
        """Stop serving. Containers keep running, and the next `start` takes them over."""
        self.ready.clear()
        await self.builds.close()
        await self.run.close()
        await self.operations.close()
        await self.balancer.close()
        if self._docker is not None:
            await self._docker.close()
        self.store.close()

    async def reset(self) -> None:
        """Delete every service and all other state; create the initial content again, with new credential files."""
        await self.builds.close()
        await self.run.close()
        await self.operations.close()
        for endpoint in self.run.endpoints():
            await self.data_plane.remove(endpoint.service)
        if self._docker is not None:
            await self._docker.sweep(())
        self.store.reset()
        self.catalog.blobs.delete_except(())
        self.catalog.blobs.delete_uploads()
        self.storage.objects.delete_all()
        self.entries.forget_all()
        await self.balancer.sync_listeners()
        self.store.vacuum()
        self.operations.open()
        self._bootstrap.create_project()
        self._bootstrap.write_credentials(self._credentials)

    def forget(self) -> None:
        """Purge finished operations, finished builds with their logs, and deleted identity pools."""
        self.operations.forget_finished()
        self.builds.forget_finished()
        self.pools.forget_deleted()
        self.store.vacuum()

    def inventory(self) -> Document:
        """List all resources by name, and count the documents of each kind."""
        project = self.projects.get(self.settings.project)
        return {
            "cloud": self.state.cloud_id,
            "registry": self._registry_address(),
            "project": project,
            "documents": self.store.count_by_kind(),
            "enabledApis": [service["config"]["name"] for service in self.usage.list(project, "ENABLED")],
            "serviceAccounts": [account["email"] for account in self.accounts.list_in_project(self.settings.project)],
            "repositories": [name for name, _ in self.store.list(REPOSITORY)],
            "images": [name for name, _ in self.store.list(MANIFEST)],
            "records": self._other_resources(),
            "services": self.run.inventory(),
            "loadBalancers": self.balancer.inventory(),
            "operations": self.operations.names(),
        }

    def _other_resources(self) -> list[str]:
        """Describe the other resources of a stack. Secrets that a person created for the stack are not among them."""
        secrets = [resource for resource in self.secrets.secrets() if ATTRIBUTION_LABEL in resource.get("labels", {})]
        buckets = [resource for resource in self.storage.buckets() if ATTRIBUTION_LABEL in resource.get("labels", {})]
        return [
            *(f"secret {resource['name']}" for resource in secrets),
            *(f"bucket {resource['name']}" for resource in buckets),
            *(path for kind in (COMPUTE, CERTIFICATE, MESH, ROUTE, ZONE, RECORD) for path, _ in self.store.list(kind)),
            *(f"settings of {name}" for name, _ in self.store.list(IAP_SETTINGS)),
            *(f"identity pool {name}" for name in self.pools.names()),
            *(f"agent registry {name}" for name, _ in self.store.list(agentregistry.KIND)),
        ]

    async def logs(self, service: str, lines: int) -> str:
        """Return the last *lines* of the logs of the containers of *service* (full or short name).

        Raises:
            GoogleError: NOT_FOUND.
        """
        for endpoint in self.run.endpoints():
            if service in {endpoint.service, endpoint.service.rpartition("/")[2]}:
                return await self._docker.logs(endpoint.service, lines) if self._docker else ""
        raise not_found(service)

    def _registry_address(self) -> str:
        """The registry's `host:port` in the names of images."""
        return self._docker.registry if self._docker else f"{self.settings.host}:{self.settings.port}"

    def _find_endpoint(self, service: str) -> ServiceEndpoint | None:
        return self.run.find_endpoint(service)  # `run` is created later than the parts that call this

    def _is_missing_pool(self, pool: str) -> bool:
        """Whether *pool* belongs to this cloud's project but does not exist."""
        is_own_pool = pool.startswith(
            (f"projects/{self.settings.project_number}/", f"projects/{self.settings.project}/")
        )
        return is_own_pool and not self.pools.exists(pool)

    def _unique_id(self, email: str) -> str:
        account = self.accounts.get(email)
        return str(account["uniqueId"]) if account else ""

    def _docker_worker(self) -> cloudbuild.Worker:
        # Imported here for the same reason as below.
        from mcpfleet_local_cloud.services.cloudbuild.worker import DockerWorker

        return DockerWorker()

    def _docker_data_plane(self) -> "DockerDataPlane":
        # Imported here because tests of the control plane do not need Docker's client.
        from mcpfleet_local_cloud.data_plane import DockerDataPlane

        agent = _RUN_AGENT_EMAIL.format(self.settings.project_number)
        return DockerDataPlane(
            settings=self.settings,
            cloud_id=self.state.cloud_id,
            store=self.store,
            registry_token=lambda: self.identity.mint_access_token(email=agent, scopes=[_PULL_SCOPE])[0],
            sources=self._instance_data,
            upstream=self.repositories.upstream,
        )

    async def _open_data_plane(
        self, docker: "DockerDataPlane", registry: ASGIApp | None, storage: ASGIApp | None
    ) -> None:
        from mcpfleet_local_cloud.data_plane import FrontEnd
        from mcpfleet_local_cloud.front_end.authorizer import Authorizer
        from mcpfleet_local_cloud.front_end.ingress import create_front_end
        from mcpfleet_local_cloud.identity.metadata import create_metadata_app

        def endpoint_at(port: int) -> ServiceEndpoint | None:
            service = docker.find_service(port)
            return self.run.find_endpoint(service) if service else None

        def is_active(claims: Claims) -> bool:
            return self.accounts.is_active(claims.email, claims.subject)

        authorizer = Authorizer(self.identity, self.policies, is_active, proxy=self._identity_aware_proxy)
        router = ContainerRouter(self.run.find_endpoint, self.balancer, docker.find_workload, self.settings)
        container_front = create_front_end(router, authorizer, docker)
        internal_front = FrontEnd(
            app=with_iap_keys(self._identity_aware_proxy, with_storage(storage or container_front, container_front)),
            tls=self.authority.create_tls_context(router.resolves),
            resolves=lambda host, ip: router.resolves(host) or self.mesh.resolves(host, docker.find_workload(ip)),
            trust_bundle=self.authority.write_bundle(),
        )
        metadata = create_metadata_app(docker.find_workload, self.identity, self.settings, self._unique_id)
        await docker.open(
            create_proxy(self.mesh, docker.find_workload, container_front, metadata), internal_front, registry
        )
        await docker.publish(create_front_end(route_by_port(endpoint_at), authorizer, docker))
        tls = self.authority.create_tls_context(self.balancer.has_certificate)
        await self.balancer.open(create_balancer_app(lambda arrive: create_front_end(arrive, authorizer, docker)), tls)
