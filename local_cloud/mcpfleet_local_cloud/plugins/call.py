"""One RPC: its deadline, the user's Ctrl-C, the engine's log, and what it can answer instead of a result."""

import threading
import time
from collections.abc import Callable, Sequence
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


Log = Callable[[str, str], None]  # severity (info, warning, error, status), message


def _silent(_severity: str, _message: str) -> None:
    pass


class Call:
    """The surroundings of one running operation.

    Args:
        cancelled: set when the engine cancels everything that this session does.
        timeout: seconds until the operation gives up.
        log: where messages for the user go.
        clock: seconds that only grow.
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

    def check(self) -> None:
        """Go on, unless the operation was cancelled or its time is over.

        Raises:
            CancelledError: the user stopped the update.
            ProviderError: the time is over.
        """
        if self.cancelled.is_set():
            raise CancelledError
        if self.clock() > self._deadline:
            raise ProviderError(f"timeout while waiting for the operation (limit: {self._timeout:.0f} s)")

    def wait(self, seconds: float) -> None:
        """Pause, at most until the user cancels.

        Raises:
            CancelledError: the user stopped the update.
            ProviderError: the time is over.
        """
        self.cancelled.wait(seconds)
        self.check()
