"""Connects the command `mcpfleet` to the local cloud of a stack; an entry point of the group `mcpfleet.clouds`."""

import os
from pathlib import Path

from mcpfleet.errors import McpfleetError
from mcpfleet_local_cloud.commands import background
from mcpfleet_local_cloud.commands.environment import exports
from mcpfleet_local_cloud.commands.phases import Phases, SetupError, SeveralErrors
from mcpfleet_local_cloud.commands.setup import prepare
from mcpfleet_local_cloud.commands.stack import find_cloud_folder, select_stack, start_cloud


def connect(root: Path, stack: str) -> dict[str, str]:
    """Return the variables with the local cloud's endpoints and the deployer's credentials; start it if needed.

    Args:
        root: The folder of Pulumi.yaml.
        stack: The stack that is, or will be, deployed there.

    Raises:
        McpfleetError: It can't start, or another stack is deployed there.
    """
    try:
        folder = select_stack(find_cloud_folder(os.environ, root.resolve()), stack)
        if background.find_running(folder, "cloud") is None:
            phases = Phases()
            with start_cloud(phases, folder, prepare(phases)):
                pass
    except SetupError as error:
        raise McpfleetError(f"{error.message} Next: {error.next_step}") from None
    except SeveralErrors as failures:
        raise McpfleetError(str(failures)) from None
    return exports(folder, None)
