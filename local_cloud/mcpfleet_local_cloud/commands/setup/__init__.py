"""Makes a machine ready: the Pulumi CLI, Docker, the base image, and what a program adds (`paths.ALSO_MADE`).

`prepare` is the whole of it. Every phase first looks for what is there, so that a second run, or a second
clone, costs a few hundred milliseconds.
"""

from mcpfleet_local_cloud.commands.setup.prepare import Prepared, prepare

__all__ = ["Prepared", "prepare"]
