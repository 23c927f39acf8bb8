"""Sets up a machine: the Pulumi CLI, Docker, the base image, and the steps in `paths.EXTRA_SETUP`.

Call `prepare`. Every phase first looks for an existing result, so that a second run, or a second clone, takes a few
hundred milliseconds.
"""

from mcpfleet_local_cloud.commands.setup.prepare import PreparedMachine, prepare

__all__ = ["PreparedMachine", "prepare"]
