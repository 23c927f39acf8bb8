"""Type tokens: the part of a component's identity that is in every user's state.

Don't change a token without an alias. If you rename one, give the component an alias with the old token; otherwise
every resource below it is replaced in every existing stack.
"""

from typing import Final

FLEET: Final = "mcpfleet:index:Fleet"
"""Servers, their clients, and all that they share."""

FOUNDATION: Final = "mcpfleet:index:Foundation"
"""The resources that all servers of a stack share."""

CLOUD_BUILD: Final = "mcpfleet:index:CloudBuild"
"""The resources that all Cloud Build builds of a stack share."""

CLOUD_BUILT_IMAGE: Final = "mcpfleet-build:index:Image"
"""An image that Cloud Build builds; the type of the provider in infra/pulumi_mcpfleet/cloud_build/."""

CUSTOM_DOMAIN: Final = "mcpfleet:index:CustomDomain"
"""A user's domain in front of a server, in all its regions."""

LOAD_BALANCER: Final = "mcpfleet:index:LoadBalancer"
"""The load balancer that all domains of a fleet share."""

MCP_CLIENT: Final = "mcpfleet:index:McpClient"
"""A service that calls the fleet's servers with its own account."""

SERVICE_MESH: Final = "mcpfleet:index:ServiceMesh"
"""The names by which clients in the mesh call servers."""

MCP_SERVER: Final = "mcpfleet:index:McpServer"
"""An MCP server: its service account, image, service and grants."""
