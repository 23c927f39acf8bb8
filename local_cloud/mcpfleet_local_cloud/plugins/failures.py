"""What a provider can answer instead of a result."""

from collections.abc import Sequence
from dataclasses import dataclass

from mcpfleet_local_cloud.plugins.values import Properties


class ProviderError(Exception):
    """A refusal or failure, in a sentence for the user; the resource is as it was before."""


class CancelledError(ProviderError):
    """The user stopped the update."""

    def __init__(self) -> None:
        super().__init__("the operation was cancelled")


class PartialFailureError(ProviderError):
    """The resource exists, but not as it was asked for: the engine keeps its id and the next update mends it.

    Args:
        reasons: what went wrong, for the user.
        resource_id: the resource's id.
        properties: its state as far as it is known.
    """

    def __init__(self, reasons: Sequence[str], *, resource_id: str, properties: Properties) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = list(reasons)
        self.resource_id = resource_id
        self.properties = properties


@dataclass(frozen=True)
class CheckFailure:
    """A mistake in a resource's inputs; *path* is the property, where the engine should name it."""

    reason: str
    path: str = ""


def at(resource: str, path: str, reason: str) -> CheckFailure:
    """A mistake in the words of the Terraform bridge, which names the place at the end of the sentence."""
    return CheckFailure(f"{reason}. Examine values at '{resource}.{path}'.")
