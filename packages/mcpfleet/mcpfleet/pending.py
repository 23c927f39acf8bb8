"""A request of a client of `mcpfleet connect` that has no reply yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mcpfleet import jsonrpc
from mcpfleet.jsonrpc import Message
from mcpfleet.upstream import FailedError


@dataclass
class PendingRequest:
    """A client's request in progress.

    Attributes:
        message: The request.
        has_server_request: The server sent a request to the client meanwhile, and would send it again after a retry.
        is_acknowledged: The request is a subscription that the server has acknowledged to the client.
        event_id: The last event id, from which a broken stream can be resumed (until 2025-11-25).
        retry_seconds: The time that the server asks a client to wait before it resumes.
        attempts: The number of times that the request was sent.
        is_answered: The client has the reply, and must not get a second one.
    """

    message: Message
    has_server_request: bool = False
    is_acknowledged: bool = False
    event_id: str = ""
    retry_seconds: float | None = None
    attempts: int = 0
    is_answered: bool = False

    def error_reply(self, failed: FailedError) -> bytes:
        """The error reply to a request that failed, with the reason, and whether the server may have handled it."""
        if not failed.may_be_done:
            outcome, explanation = "not_done", "The server did not handle the request."
        else:
            name = self.message.params.get("name") if self.message.method == jsonrpc.CALL else self.message.method
            outcome = "unknown"
            explanation = f"The server may have handled {name}."
            if self.message.method == jsonrpc.CALL:
                explanation += " It was not called again, because the tool is not marked as read-only or idempotent."
        data: dict[str, Any] = {"outcome": outcome, "attempts": self.attempts}
        if failed.status is not None:
            data["status"] = failed.status
        return jsonrpc.error_reply(self.message.id, f"{failed} {explanation}", **data)
