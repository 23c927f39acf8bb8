"""The fleet: all that a user may ask for in `mcpfleet:fleet`, checked once.

`parse_fleet` is the only door. Behind it every value is frozen and every name fits the cloud, so
nothing downstream checks again. It does not ask any cloud: whether an image or a member exists is
Google's to say. Nothing in this package knows Pulumi.
"""

from pulumi_mcpfleet.fleet.access import Access, Iam, IamAccess, IapAccess, OauthAccess, PublicAccess
from pulumi_mcpfleet.fleet.built_source import Folder
from pulumi_mcpfleet.fleet.client import Client
from pulumi_mcpfleet.fleet.deprecated import find_deprecated_keys
from pulumi_mcpfleet.fleet.git import Git
from pulumi_mcpfleet.fleet.model import CloudBuildOptions, Fleet, Registry
from pulumi_mcpfleet.fleet.parse import FleetError, parse_fleet
from pulumi_mcpfleet.fleet.server import Server
from pulumi_mcpfleet.fleet.sources import Build, ExistingImage, builds_in_cloud
from pulumi_mcpfleet.fleet.stdio import Stdio
from pulumi_mcpfleet.fleet.workload import Workload

__all__ = [
    "Access",
    "Build",
    "Client",
    "CloudBuildOptions",
    "ExistingImage",
    "Fleet",
    "FleetError",
    "Folder",
    "Git",
    "Iam",
    "IamAccess",
    "IapAccess",
    "OauthAccess",
    "PublicAccess",
    "Registry",
    "Server",
    "Stdio",
    "Workload",
    "builds_in_cloud",
    "find_deprecated_keys",
    "parse_fleet",
]
