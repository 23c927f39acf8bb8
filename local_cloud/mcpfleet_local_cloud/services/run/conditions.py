"""The conditions of services and revisions, which report the progress of deployments.

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
UNKNOWN: Final = {"reason": "UNKNOWN"}
RETIRED: Final = {"revisionReason": "RETIRED"}
_REVISION_FAILED: Final = {"reason": "REVISION_FAILED"}


def set_service_deploying(record: Document, now: str) -> None:
    """Set the conditions of a service whose new revision is being deployed."""
    _set_service_conditions(record, now, RECONCILING, RECONCILING, RECONCILING, "Deploying Revision.", {})


def set_service_ready(record: Document, now: str) -> None:
    """Set the conditions of a service whose newest revision is ready."""
    _set_service_conditions(record, now, SUCCEEDED, SUCCEEDED, SUCCEEDED, "", {})


def set_service_failed(record: Document, now: str, message: str) -> None:
    """Set the conditions of a service whose newest revision failed; `RoutesReady` stays if an older revision serves."""
    routes = SUCCEEDED if record.get("latestReadyRevision") else FAILED
    _set_service_conditions(record, now, FAILED, routes, FAILED, message, _REVISION_FAILED)


def set_revision_condition(
    record: Document, now: str, state: str, message: str = "", reason: Document | None = None
) -> None:
    """Set the only condition of the revision *record*, `Ready`."""
    conditions = record.get("conditions", [])
    record["conditions"] = [_build_condition(conditions, "Ready", now, state, message, reason or {})]


def _set_service_conditions(
    record: Document, now: str, ready: str, routes: str, configurations: str, message: str, reason: Document
) -> None:
    terminal = record.get("terminalCondition")
    record["terminalCondition"] = _build_condition([terminal] if terminal else [], "Ready", now, ready, message, reason)
    conditions = record.get("conditions", [])
    record["conditions"] = [
        _build_condition(conditions, "RoutesReady", now, routes, message if routes == FAILED else "", {}),
        _build_condition(
            conditions,
            "ConfigurationsReady",
            now,
            configurations,
            message,
            reason,
        ),
    ]


def _build_condition(
    conditions: Sequence[Document], type_name: str, now: str, state: str, message: str, reason: Document
) -> Document:
    previous = next((candidate for candidate in conditions if candidate["type"] == type_name), None)
    since = previous["lastTransitionTime"] if previous and previous["state"] == state else now
    condition: Document = {"type": type_name, "state": state, "lastTransitionTime": since, **reason}
    if message:
        condition["message"] = message
    if state == FAILED:
        condition["severity"] = "ERROR"
    return condition
