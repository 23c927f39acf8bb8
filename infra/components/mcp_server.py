"""One MCP server on Cloud Run: its identity, its image, its service, and who may call it.

It creates no registry and enables no API (`Foundation` does), and gives its identity no role: a server
that needs one says so when the vocabulary has a key for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pulumi
import pulumi_docker_build as docker_build
import pulumi_gcp as gcp

from infra import environment, naming
from infra.components.foundation import Foundation
from infra.fleet import Build, ExistingImage, Server
from infra.tokens import MCP_SERVER

if TYPE_CHECKING:
    from pulumi_gcp.cloudrunv2 import ServiceTemplateContainerArgsDict as Container

INVOKER_ROLE: Final = "roles/run.invoker"

# A short period finds a server ready within a second of its being so. Sixty tries are ten times what the
# reference server takes on one CPU, and still fail a broken image long before Cloud Run's 240 s.
STARTUP_PERIOD: Final = 1  # seconds
STARTUP_TRIES: Final = 60

# Cloud Run's own default for a container without a health path: it waits until something listens.
LISTENING_PATIENCE: Final = 240  # seconds

BUILT_PORT: Final = 8080
"""Where a built server listens: Cloud Run's default, which it gets in PORT."""

# Liveness only finds a server that has stopped answering; rarely, because each probe costs CPU time.
LIVENESS_PERIOD: Final = 30  # seconds
LIVENESS_TIMEOUT: Final = 5  # seconds
LIVENESS_TRIES: Final = 3


@dataclass(frozen=True, kw_only=True)
class McpServerArgs:
    """A server as the fleet describes it, and the stack it stands in."""

    project: str
    region: str
    foundation: Foundation
    spec: Server
    deletion_protection: bool
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


class McpServer(pulumi.ComponentResource):
    """A scale-to-zero MCP server that runs as its own service account and that only its invokers may call."""

    service: pulumi.Output[str]
    """The Cloud Run service's name."""

    url: pulumi.Output[str]
    """The service's URL, also the audience of callers' ID tokens. Known once the invokers may call."""

    mcp_url: pulumi.Output[str]
    """The URL for MCP clients: the endpoint itself, no redirect on the way."""

    def __init__(self, name: str, args: McpServerArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(MCP_SERVER, name, None, opts)
        # Names are fixed, so a replacement has the name of what it replaces. The engine must know that even where
        # the provider sees no difference any more: when a replacement that failed half way is taken back, it would
        # otherwise create the service again and then delete it, believing that to be the old one.
        child = pulumi.ResourceOptions(parent=self, delete_before_replace=True)
        after_apis = pulumi.ResourceOptions(parent=self, delete_before_replace=True, depends_on=args.foundation.apis)
        spec = args.spec

        # A new account is not seen everywhere at once, and Cloud Run refuses a service whose account it does
        # not see. What protects us: the provider reads the account three times after it has created it and
        # then waits 10 s before it reports it done, and `identity.email` below makes the service wait for that.
        identity = gcp.serviceaccount.Account(
            name,
            project=args.project,
            account_id=naming.account_id(name),
            display_name=f"MCP server {name}",
            opts=after_apis,
        )
        service = gcp.cloudrunv2.Service(
            name,
            name=naming.service_name(name),
            project=args.project,
            location=args.region,
            description=spec.description or None,
            labels=args.labels or None,
            ingress="INGRESS_TRAFFIC_ALL",  # who gets through is IAM's question, not the network's
            deletion_protection=args.deletion_protection,
            custom_audiences=spec.audiences or None,
            # Scaling stands in the template only: the block of the same name on the service is filled in by
            # Cloud Run, and left out here it is no difference in the next update.
            template={
                "service_account": identity.email,
                "timeout": f"{spec.timeout}s",
                "max_instance_request_concurrency": spec.concurrency,
                "scaling": {"min_instance_count": spec.min_instances, "max_instance_count": spec.max_instances},
                "containers": [_container(name, spec, _image(name, spec, args.foundation, child))],
            },
            opts=after_apis,
        )
        # Members, never a binding: a binding drops the grants it does not list.
        grants = [
            gcp.cloudrunv2.ServiceIamMember(
                naming.grant_name(name, member),
                project=args.project,
                location=args.region,
                name=service.name,
                role=INVOKER_ROLE,
                member=member,
                opts=child,
            )
            for member in spec.access.iam.invokers
        ]

        self.service = service.name
        # Whoever reads a URL may call it at once, so it waits for the grants.
        self.url = pulumi.Output.all(service.uri, *(grant.id for grant in grants)).apply(lambda known: str(known[0]))
        self.mcp_url = self.url.apply(lambda url: naming.mcp_url(url, spec.path))
        self.register_outputs({"service": self.service, "url": self.url, "mcp_url": self.mcp_url})


def _image(name: str, spec: Server, foundation: Foundation, child: pulumi.ResourceOptions) -> pulumi.Output[str] | str:
    """The image to run: the existing one as it is named, or one built here and pinned by its digest."""
    if isinstance(spec.source, ExistingImage):
        return spec.source.image
    repository = foundation.registry_uri.apply(lambda uri: naming.image_repository(uri, name))
    login = foundation.registry_login
    image = docker_build.Image(
        name,
        # Relative, as the user wrote it: an absolute path would differ between two people's checkouts,
        # and each of them would rebuild what the other has deployed.
        context={"location": spec.source.build},
        build_args=spec.source.build_args,
        platforms=[docker_build.Platform.LINUX_AMD64],  # the only one that Cloud Run runs
        push=True,
        # The tag shows people the newest version; nothing is deployed by it.
        tags=[pulumi.Output.concat(repository, ":latest")],
        registries=[{"address": login.host, "username": login.username, "password": login.password}],
        # The builder's own cache is used. None is kept in the registry: it would change the image's digest
        # with the builder that made it.
        build_on_preview=False,  # a preview needs no Docker, no registry and no time
        opts=child,
    )
    return pulumi.Output.concat(repository, "@", image.digest)


def _container(name: str, spec: Server, image: pulumi.Input[str]) -> "Container":
    env = environment.container_environment(
        path=spec.path,
        allowed_hosts=naming.allowed_hosts(name),
        allowed_origins=spec.allowed_origins,
        user=spec.env,
    )
    port = spec.source.port if isinstance(spec.source, ExistingImage) else BUILT_PORT
    # Ports and probes are said even where they are Cloud Run's defaults: what is left out keeps, in an update, the
    # value of the last revision, and a probe would go on asking at a port that the server has left.
    container: Container = {
        "image": image,
        "envs": [{"name": key, "value": value} for key, value in env.items()],
        "ports": {"container_port": port},
        "resources": {
            "limits": {"cpu": spec.cpu, "memory": spec.memory},
            "cpu_idle": True,  # CPU, and its bill, only during requests; absent would mean the opposite
            "startup_cpu_boost": spec.startup_boost,
        },
    }
    match spec.source:
        case ExistingImage(args=args, command=command):
            if args:
                container["args"] = args
            if command:
                container["commands"] = command
        case Build():
            pass  # the Dockerfile says both
    if spec.health_path is None:
        container["startup_probe"] = {
            "tcp_socket": {"port": port},
            "period_seconds": LISTENING_PATIENCE,
            "timeout_seconds": LISTENING_PATIENCE,
            "failure_threshold": 1,
        }
    else:
        container["startup_probe"] = {
            "http_get": {"path": spec.health_path, "port": port},
            "period_seconds": STARTUP_PERIOD,
            "timeout_seconds": STARTUP_PERIOD,
            "failure_threshold": STARTUP_TRIES,
        }
        container["liveness_probe"] = {
            "http_get": {"path": spec.health_path, "port": port},
            "period_seconds": LIVENESS_PERIOD,
            "timeout_seconds": LIVENESS_TIMEOUT,
            "failure_threshold": LIVENESS_TRIES,
        }
    return container
