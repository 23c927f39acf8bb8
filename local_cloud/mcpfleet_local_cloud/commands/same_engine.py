"""A local cloud stays on the Docker Engine where it began: only there can what it has made be found and removed."""

import json
import shlex
from contextlib import suppress

from mcpfleet_local_cloud.commands.background import CloudFolder
from mcpfleet_local_cloud.commands.paths import PROGRAM
from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.docker_engine import Address, Facts


def hold(place: CloudFolder, address: Address, engine: Facts, *, force: bool = False) -> None:
    """Keep to the engine that the place's local cloud has; the first one that is used becomes that.

    Args:
        place: Where the local cloud lives.
        address: Where the engine that was found now answers.
        engine: What it says of itself.
        force: Whether another engine may take the place of the first, as when that is gone for good.

    Raises:
        SetupError: It is another one.
    """
    file = place.state / "docker-engine.json"
    kept: object = None
    with suppress(OSError, ValueError):
        kept = json.loads(file.read_text(encoding="utf-8"))
    match kept:
        case {"identity": str(identity), "host": str(host), "name": str(name)} if identity != engine.identity:
            if place.cloud_state.exists() and not force:
                raise SetupError(
                    f"What is deployed here is on {name} at {host}; found now is {engine} at {address}. "
                    "Nothing was changed.",
                    f"type: DOCKER_HOST={shlex.quote(host)} {PROGRAM} down   and then {PROGRAM} up; where that engine "
                    f"is gone for good: {PROGRAM} down --force.",
                )
        case _:
            pass
    held = {"identity": engine.identity, "host": address.host, "name": str(engine)}
    if kept != held:
        file.write_text(json.dumps(held), encoding="utf-8")


def let_go(place: CloudFolder) -> None:
    """Nothing is left on the engine: the next stack may be on another."""
    (place.state / "docker-engine.json").unlink(missing_ok=True)
