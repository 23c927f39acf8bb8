"""Deploys the fleet that the stack's config file describes, and exports where it answers."""

import pulumi

from pulumi_mcpfleet import Fleet

fleet = Fleet.from_config()
pulumi.export("servers", fleet.servers)
pulumi.export("clients", fleet.clients)
