"""Type tokens: the part of a component's identity that lives in every user's state.

A token never changes by itself. To rename one, give the component an alias with the old token, or
every resource below it is replaced in every stack that exists.
"""

from typing import Final

FLEET: Final = "mcpfleet:index:Fleet"
"""Servers, their clients, and all that they share."""

FOUNDATION: Final = "mcpfleet:index:Foundation"
"""What all servers of a stack share."""

CLOUD_BUILD: Final = "mcpfleet:index:CloudBuild"
"""What all builds of a stack by Cloud Build share."""

CLOUD_BUILT_IMAGE: Final = "mcpfleet-build:index:Image"
"""An image that Cloud Build makes; the type of the provider in infra/pulumi_mcpfleet/cloud_build/."""

CUSTOM_DOMAIN: Final = "mcpfleet:index:CustomDomain"
"""A domain of the user's in front of a server, in all its regions."""

LOAD_BALANCER: Final = "mcpfleet:index:LoadBalancer"
"""The one load balancer of all domains of a fleet."""

MCP_CLIENT: Final = "mcpfleet:index:McpClient"
"""A service that calls the fleet's servers as itself."""

SERVICE_MESH: Final = "mcpfleet:index:ServiceMesh"
"""The names under which clients in the mesh call servers."""

MCP_SERVER: Final = "mcpfleet:index:McpServer"
"""One MCP server: its identity, image, service and grants."""
