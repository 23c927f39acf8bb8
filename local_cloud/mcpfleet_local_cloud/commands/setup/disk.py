"""Checks before setup that the disk has room for the images and the caches."""

from pathlib import Path

from mcpfleet_local_cloud.commands.phases import SetupError
from mcpfleet_local_cloud.commands.setup.host import Host

# A build of the Pulumi CLI leaves 2 GB of Go's own caches, the images are about 1 GB.
NEEDED_BYTES = 3 * 1000**3


def check_disk_space(host: Host, path: Path, next_step: str) -> None:
    """Check that 3 GB are free.

    A path that is not on this machine (Docker Desktop's is in a virtual machine) passes.

    Args:
        host: The machine.
        path: A path on the disk.
        next_step: The error's next step: how to make room.

    Raises:
        SetupError: Less is free; the message has the path and the free bytes.
    """
    free = host.free_bytes(path)
    if free is not None and free < NEEDED_BYTES:
        raise SetupError(
            f"the disk of {path} is full: {free:,} bytes are free, {NEEDED_BYTES:,} are needed.", next_step
        )
