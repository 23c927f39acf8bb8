"""What all servers of a stack share: the APIs that are switched on, and the registry of built images.

It does not own the project, its billing or its network: those outlive a stack.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import pulumi
import pulumi_gcp as gcp

from infra import naming
from infra.tokens import FOUNDATION

# The provider asks Resource Manager for the project after it has enabled any API, so that one is first.
FIRST_API: Final = "cloudresourcemanager"
APIS: Final = ("artifactregistry", "iam", "iamcredentials", "run")

KEPT_VERSIONS: Final = 10
"""So many of the newest versions of each image stay, whatever their age: enough to go back to."""

TOKEN_USER: Final = "oauth2accesstoken"  # noqa: S105, a user name
"""Artifact Registry's user name for "the password is an OAuth access token"."""


@dataclass(frozen=True, kw_only=True)
class FoundationArgs:
    """Where the stack is, and the labels of what it shares."""

    project: str
    region: str
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class RegistryLogin:
    """What a client needs to push to the stack's registry; the password lives for an hour at most."""

    host: pulumi.Output[str]
    username: str
    password: pulumi.Output[str]


class Foundation(pulumi.ComponentResource):
    """The enabled APIs and the Docker repository of a stack."""

    apis: tuple[gcp.projects.Service, ...]
    """To depend on: nothing else of a stack can be created before them."""

    registry_uri: pulumi.Output[str]
    """The repository's address for images, as Artifact Registry itself gives it."""

    registry_login: RegistryLogin

    def __init__(self, name: str, args: FoundationArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(FOUNDATION, name, None, opts)
        child = pulumi.ResourceOptions(parent=self)

        first = _enabled(name, FIRST_API, args, child)
        after_first = pulumi.ResourceOptions(parent=self, depends_on=[first])
        self.apis = (first, *(_enabled(name, api, args, after_first) for api in APIS))

        repository = gcp.artifactregistry.Repository(
            name,
            project=args.project,
            location=args.region,
            repository_id=naming.REPOSITORY_ID,
            format="DOCKER",
            description="Images of the MCP servers that mcpfleet builds",
            labels=args.labels or None,
            # A keep policy alone deletes nothing: it only takes versions out of what a delete policy matches.
            # Tagged versions are left alone, so whoever wants to keep a version for good gives it a tag.
            cleanup_policies=[
                {"id": "delete-untagged", "action": "DELETE", "condition": {"tag_state": "UNTAGGED"}},
                {"id": "keep-newest", "action": "KEEP", "most_recent_versions": {"keep_count": KEPT_VERSIONS}},
            ],
            # In another region it is another repository of the same name. Created before the old one is deleted, a
            # change of region that fails half way could not be taken back: the old one would be in its own way (409).
            opts=pulumi.ResourceOptions(parent=self, depends_on=self.apis, delete_before_replace=True),
        )
        self.registry_uri = repository.registry_uri
        # The provider's own token: whoever may deploy may push, and no key is stored anywhere. A new token
        # at each run is not a change to docker-build, which ignores passwords in its diff.
        token = gcp.organizations.get_client_config_output(opts=pulumi.InvokeOutputOptions(parent=self)).access_token
        self.registry_login = RegistryLogin(
            host=self.registry_uri.apply(naming.registry_host),
            username=TOKEN_USER,
            password=pulumi.Output.secret(token),
        )
        self.register_outputs({"registry_uri": self.registry_uri})


def _enabled(name: str, api: str, args: FoundationArgs, child: pulumi.ResourceOptions) -> gcp.projects.Service:
    return gcp.projects.Service(
        f"{name}-{api}",
        project=args.project,
        service=naming.api_host(api),
        # The project may use the API for other things; a stack that goes away must not take it along.
        disable_on_destroy=False,
        opts=child,
    )
