"""JSON whose shape was just looked at, told to the type checker."""

from typing import Any, cast

from mcpfleet_local_cloud.state.store import Document


def as_object(value: Any) -> Document | None:
    """*value* where it is a JSON object, else None."""
    return cast("Document", value) if isinstance(value, dict) else None


def as_list(value: Any) -> list[Any] | None:
    """*value* where it is a JSON array, else None."""
    return cast("list[Any]", value) if isinstance(value, list) else None
