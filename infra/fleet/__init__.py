"""The fleet: all that a user may ask for in `mcpfleet:fleet`, checked once.

`parse_fleet` is the only door. Behind it every value is frozen and every name fits the cloud, so
nothing downstream checks again. It does not ask any cloud: whether an image or a member exists is
Google's to say. Nothing in this package knows Pulumi.
"""

from infra.fleet.model import Access, Build, ExistingImage, Fleet, Iam, IamAccess, Server
from infra.fleet.parse import FleetError, parse_fleet

__all__ = ["Access", "Build", "ExistingImage", "Fleet", "FleetError", "Iam", "IamAccess", "Server", "parse_fleet"]
