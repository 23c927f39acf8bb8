"""The emulated gcp provider with its resource types, functions and configuration."""

from typing import Any

import httpx2

from mcpfleet_local_cloud.plugins.call import CheckFailure
from mcpfleet_local_cloud.plugins.gcp import certificates, compute, config, mesh
from mcpfleet_local_cloud.plugins.gcp.account import Account
from mcpfleet_local_cloud.plugins.gcp.agent_registry import AgentRegistryService
from mcpfleet_local_cloud.plugins.gcp.iam_member import ProjectIamMember, RepositoryIamMember, RunServiceIamMember
from mcpfleet_local_cloud.plugins.gcp.iap import ServiceIdentity, Settings, WebCloudRunServiceIamMember
from mcpfleet_local_cloud.plugins.gcp.invokes import (
    get_client_config,
    get_network,
    get_project,
    get_secret_version,
    get_secret_version_access,
    get_subnetwork,
)
from mcpfleet_local_cloud.plugins.gcp.project_service import ProjectService
from mcpfleet_local_cloud.plugins.gcp.repository import Repository
from mcpfleet_local_cloud.plugins.gcp.run_service import RunService
from mcpfleet_local_cloud.plugins.gcp.secret import Secret, SecretIamMember, SecretVersion
from mcpfleet_local_cloud.plugins.gcp.storage import Bucket, BucketIamMember, BucketObject
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.servicer import Provider
from mcpfleet_local_cloud.plugins.values import Properties


class GcpProvider(Provider):
    """The `gcp` plugin.

    Args:
        transport: sends the HTTP requests; None for the network.
    """

    package = "gcp"
    version = "10.2.0"

    def __init__(self, transport: httpx2.BaseTransport | None = None) -> None:
        resources: list[Any] = [
            Account(),
            AgentRegistryService(),
            Bucket(),
            BucketIamMember(),
            BucketObject(),
            ProjectIamMember(),
            ProjectService(),
            Repository(),
            RepositoryIamMember(),
            RunService(),
            RunServiceIamMember(),
            Secret(),
            SecretIamMember(),
            SecretVersion(),
            ServiceIdentity(),
            Settings(),
            WebCloudRunServiceIamMember(),
            *(kind() for kind in (*certificates.TYPES, *compute.TYPES, *mesh.TYPES)),
        ]
        functions = {
            "gcp:organizations/getClientConfig:getClientConfig": get_client_config,
            "gcp:organizations/getProject:getProject": get_project,
            "gcp:compute/getNetwork:getNetwork": get_network,
            "gcp:compute/getSubnetwork:getSubnetwork": get_subnetwork,
            "gcp:secretmanager/getSecretVersion:getSecretVersion": get_secret_version,
            "gcp:secretmanager/getSecretVersionAccess:getSecretVersionAccess": get_secret_version_access,
        }
        super().__init__(resources, functions)
        self._transport = transport

    def check_configuration(self, name: str, news: Properties) -> list[CheckFailure]:
        """All mistakes in the provider's configuration."""
        return config.check(name, news)

    def read_configuration(self, news: Properties) -> Api:
        """A client of the APIs with this configuration."""
        return Api(config.configure(news), self._transport)
