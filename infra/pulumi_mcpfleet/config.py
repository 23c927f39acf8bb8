"""What a stack's config file has of the fleet."""

from typing import Any

import pulumi


def read_project() -> str:
    """The stack's Google Cloud project, `gcp:project`.

    Raises:
        pulumi.ConfigMissingError: The config file has none.
    """
    return pulumi.Config("gcp").require("project")


def read_fleet() -> Any:
    """The value of `mcpfleet:fleet` as it is in the config file; None where the file has no such key."""
    return pulumi.Config("mcpfleet").get_object("fleet")
