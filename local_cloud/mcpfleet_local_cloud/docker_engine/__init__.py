"""Which Docker Engine is used, what it can do, and a client of it: one answer for every part of the local cloud."""

from mcpfleet_local_cloud.docker_engine.address import Address, addresses
from mcpfleet_local_cloud.docker_engine.client import NoEngineError, client, connect, environment, facts_of, reach
from mcpfleet_local_cloud.docker_engine.facts import Facts, Limits

__all__ = [
    "Address",
    "Facts",
    "Limits",
    "NoEngineError",
    "addresses",
    "client",
    "connect",
    "environment",
    "facts_of",
    "reach",
]
