"""Pins a local cloud to the Docker engine that it was started on: its containers can be removed only there."""

import json
import shlex
from contextlib import suppress

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.docker_engine import EngineAddress, EngineFacts


def pin(folder: CloudFolder, address: EngineAddress, facts: EngineFacts, *, force: bool = False) -> None:
    """Check that the engine is the one that the local cloud is pinned to; pin it if there is none yet.

    Args:
        folder: The checkout folder of the local cloud.
        address: The address of the engine that was found.
        facts: What that engine reports of itself.
        force: Whether to pin another engine than before, as when the former is gone for good.

    Raises:
        SetupError: The local cloud is pinned to another engine.
    """
    file = folder.state / "docker-engine.json"
    pinned: object = None
    with suppress(OSError, ValueError):
        pinned = json.loads(file.read_text(encoding="utf-8"))
    match pinned:
        case {"identity": str(identity), "host": str(host), "name": str(name)} if identity != facts.identity:
            if folder.cloud_state.exists() and not force:
                raise SetupError(
                    f"The stack is deployed on {name} at {host}; the Docker engine found now is {facts} at {address}. "
                    "Nothing was changed.",
                    f"type: DOCKER_HOST={shlex.quote(host)} {PROGRAM} down   and then {PROGRAM} up. If that engine "
                    f"is gone for good: {PROGRAM} down --force.",
                )
        case _:
            pass
    current = {"identity": facts.identity, "host": address.host, "name": str(facts)}
    if pinned != current:
        file.write_text(json.dumps(current), encoding="utf-8")


def unpin(folder: CloudFolder) -> None:
    """Remove the pin: nothing is left on the engine, so the next stack may use another."""
    (folder.state / "docker-engine.json").unlink(missing_ok=True)
