"""One RPC's bounds: its deadline, the user's Ctrl-C, and the engine's log."""

import threading
import time
from collections.abc import Callable

from mcpfleet_local_cloud.plugins.failures import CancelledError, ProviderError

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
