"""The fleet: the typed and validated value of `mcpfleet:fleet`.

`parse_fleet` is the only entry point. In the fleet that it returns, every value is frozen and every name is valid in
the cloud, so later code does not validate again. The parser calls no cloud: whether an image or a principal exists, is
known only to Google. Nothing in this package imports Pulumi.
"""

from pulumi_mcpfleet.fleet.access import Access, Iam, IamAccess, IapAccess, LoginAccess, OauthAccess, PublicAccess
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
    "LoginAccess",
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
