"""What Cloud Run asks of the rest of the cloud."""

from typing import Protocol

from mcpfleet_local_cloud.data_plane.contract import DataPlane, RolloutError
from mcpfleet_local_cloud.state.store import Document


class PolicyStore(Protocol):
    """What is asked of `policy.Policies`."""

    def get(self, resource: str) -> Document:
        """The resource's policy."""
        ...

    def set(self, resource: str, policy: Document) -> Document:
        """Replace the resource's policy."""
        ...

    def delete(self, resource: str) -> None:
        """Forget the resource's policy."""
        ...

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Whether *email* has *permission* on *resource*."""
        ...


class Accounts(Protocol):
    """What is asked of `services.iam.ServiceAccounts`."""

    def exists(self, email: str) -> bool:
        """Whether there is a service account with that e-mail address."""
        ...


class Networks(Protocol):
    """What is asked of `services.compute.Compute`."""

    def network_of(self, project: str, region: str, network: str, subnetwork: str) -> tuple[str, str]:
        """The network and the subnetwork that an interface has; raises `GoogleError` where there is none."""
        ...


class Meshes(Protocol):
    """What is asked of `services.networkservices.NetworkServices`."""

    def exists(self, mesh: str) -> bool:
        """Whether there is a mesh with that full name."""
        ...


def address(data_plane: DataPlane, service: str) -> str:
    """Where *service* (its full name) answers; "" where it has no address: its port was taken by another program."""
    try:
        return data_plane.address(service)
    except RolloutError:
        return ""
