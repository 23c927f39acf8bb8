"""A request of a client of `mcpfleet connect`, from its line to its one answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcpfleet import jsonrpc
from mcpfleet.jsonrpc import Message
from mcpfleet.upstream import FailedError


@dataclass
class PendingRequest:
    """One request of a client that is under way, and what its client is told if it ends without an answer.

    Attributes:
        asked: The server asked the client something meanwhile; sent again, it would ask again.
        acknowledged: A subscription whose client knows that it stands.
        event: The last event id, from which a broken stream can be resumed (until 2025-11-25).
        wait: Seconds that the server wants a client to wait before it resumes.
        answered: Its client has the answer, and must get no second one.
    """

    message: Message
    asked: bool = False
    acknowledged: bool = False
    event: str = ""
    wait: float | None = None
    attempts: int = 0
    answered: bool = False

    def refusal(self, failed: FailedError) -> bytes:
        """The answer to a request that has none: why, and whether it may have been carried out."""
        if not failed.done:
            outcome, more = "not_done", "It was not carried out."
        else:
            name = self.message.params.get("name") if self.message.method == jsonrpc.CALL else self.message.method
            outcome = "unknown"
            more = f"Whether {name} was carried out is not known."
            if self.message.method == jsonrpc.CALL:
                more += " It was not called again: the tool does not say that it only reads, or is idempotent."
        data: dict[str, Any] = {"outcome": outcome, "attempts": self.attempts}
        if failed.status is not None:
            data["status"] = failed.status
        return jsonrpc.error_reply(self.message.id, f"{failed} {more}", **data)
