"""Finds the Docker engine, its facts and a client of it, in the same way for every part of the local cloud."""

from mcpfleet_local_cloud.docker_engine.address import EngineAddress, list_addresses
from mcpfleet_local_cloud.docker_engine.client import (
    NoEngineError,
    connect,
    create_client,
    engine_environment,
    find_engine,
    list_image_names,
    read_facts,
)
from mcpfleet_local_cloud.docker_engine.facts import EngineFacts, Limits

__all__ = [
    "EngineAddress",
    "EngineFacts",
    "Limits",
    "NoEngineError",
    "connect",
    "create_client",
    "engine_environment",
    "find_engine",
    "list_addresses",
    "list_image_names",
    "read_facts",
]
