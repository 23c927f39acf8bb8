"""Is there room for the images and the caches? Asked before anything is made."""

from pathlib import Path

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup.host import Host

# A build of the Pulumi CLI leaves 2 GB of Go's own caches, the images are about 1 GB.
NEEDED_BYTES = 3 * 1000**3


def check_room(host: Host, path: Path, remedy: str) -> None:
    """Refuse to go on where less than 3 GB is free.

    A path that is not on this machine (Docker Desktop's is in a virtual machine) passes.

    Raises:
        SetupError: It names the path, the free bytes and `remedy`, the command that makes room.
    """
    free = host.free_bytes(path)
    if free is not None and free < NEEDED_BYTES:
        raise SetupError(f"the disk of {path} is full: {free:,} bytes are free, {NEEDED_BYTES:,} are needed.", remedy)
