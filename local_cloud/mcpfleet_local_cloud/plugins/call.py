"""The context of one RPC (deadline, cancellation and log), and the errors that an RPC can end with."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mcpfleet_local_cloud.plugins.values import Properties


class ProviderError(Exception):
    """An operation failed and left the resource as it was; the message is one sentence for the user."""


class CancelledError(ProviderError):
    """The user stopped the update."""

    def __init__(self) -> None:
        super().__init__("the operation was cancelled")


class PartialFailureError(ProviderError):
    """The resource exists, but not in the requested state: the engine keeps its id, and the next update repairs it.

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
    """A mistake in a resource's inputs; the engine shows *path*, the property, unless it is empty."""

    reason: str
    path: str = ""


def failure_at(resource: str, path: str, reason: str) -> CheckFailure:
    """A mistake as the Terraform bridge words it: the property's path is at the end of the message."""
    return CheckFailure(f"{reason}. Examine values at '{resource}.{path}'.")


Log = Callable[[str, str], None]  # severity (info, warning, error, status), message


def _silent(_severity: str, _message: str) -> None:
    pass


class Call:
    """The context of one running operation.

    Args:
        cancelled: set when the engine cancels all operations of its session.
        timeout: seconds until the operation fails.
        log: receives messages for the user.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        *,
        cancelled: threading.Event | None = None,
        timeout: float = 1200,
        log: Log = _silent,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cancelled = cancelled or threading.Event()
        self.log = log
        self.clock = clock
        self._timeout = timeout
        self._deadline = clock() + timeout

    def raise_if_stopped(self) -> None:
        """Raise an error if the operation was cancelled or its timeout is over.

        Raises:
            CancelledError: the user stopped the update.
            ProviderError: the timeout is over.
        """
        if self.cancelled.is_set():
            raise CancelledError
        if self.clock() > self._deadline:
            raise ProviderError(f"timeout while waiting for the operation (limit: {self._timeout:.0f} s)")

    def wait(self, seconds: float) -> None:
        """Pause for *seconds*, or until the user cancels.

        Raises:
            CancelledError: the user stopped the update.
            ProviderError: the timeout is over.
        """
        self.cancelled.wait(seconds)
        self.raise_if_stopped()
