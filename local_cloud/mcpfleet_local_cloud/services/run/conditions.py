"""The conditions of services and revisions: what a reader sees of the work on them.

Types, states and reasons as in Cloud Run v2's `Condition` (docs/google-apis.md 3). A condition keeps its
transition time while its state stays.
"""

from collections.abc import Sequence
from typing import Final

from mcpfleet_local_cloud.state.store import Document

SUCCEEDED: Final = "CONDITION_SUCCEEDED"
FAILED: Final = "CONDITION_FAILED"
RECONCILING: Final = "CONDITION_RECONCILING"

UNHEALTHY: Final = {"revisionReason": "HEALTH_CHECK_CONTAINER_ERROR"}
NO_IMAGE: Final = {"reason": "CONTAINER_MISSING"}
BROKEN: Final = {"reason": "UNKNOWN"}
RETIRED: Final = {"revisionReason": "RETIRED"}
_REVISION_FAILED: Final = {"reason": "REVISION_FAILED"}


def service_deploying(record: Document, now: str) -> None:
    """A new revision is on its way."""
    _service(record, now, RECONCILING, RECONCILING, RECONCILING, "Deploying Revision.", {})


def service_ready(record: Document, now: str) -> None:
    """The newest revision serves."""
    _service(record, now, SUCCEEDED, SUCCEEDED, SUCCEEDED, "", {})


def service_failed(record: Document, now: str, message: str) -> None:
    """The newest revision cannot serve; the routes hold where an older one does."""
    routes = SUCCEEDED if record.get("latestReadyRevision") else FAILED
    _service(record, now, FAILED, routes, FAILED, message, _REVISION_FAILED)


def revision(record: Document, now: str, state: str, message: str = "", reason: Document | None = None) -> None:
    """Set the one condition of the revision *record*, `Ready`."""
    found = record.get("conditions", [])
    record["conditions"] = [_condition(found, "Ready", now, state, message, reason or {})]


def _service(
    record: Document, now: str, ready: str, routes: str, configurations: str, message: str, reason: Document
) -> None:
    terminal = record.get("terminalCondition")
    record["terminalCondition"] = _condition([terminal] if terminal else [], "Ready", now, ready, message, reason)
    found = record.get("conditions", [])
    record["conditions"] = [
        _condition(found, "RoutesReady", now, routes, message if routes == FAILED else "", {}),
        _condition(
            found,
            "ConfigurationsReady",
            now,
            configurations,
            message,
            reason,
        ),
    ]


def _condition(found: Sequence[Document], kind: str, now: str, state: str, message: str, reason: Document) -> Document:
    before = next((one for one in found if one["type"] == kind), None)
    since = before["lastTransitionTime"] if before and before["state"] == state else now
    condition: Document = {"type": kind, "state": state, "lastTransitionTime": since, **reason}
    if message:
        condition["message"] = message
    if state == FAILED:
        condition["severity"] = "ERROR"
    return condition
