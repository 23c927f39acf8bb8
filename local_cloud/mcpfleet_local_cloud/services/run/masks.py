"""`updateMask`: changes only the fields that it names. Without a mask a PATCH replaces everything."""

import copy

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.services.run.messages import MESSAGES
from mcpfleet_local_cloud.services.run.wire import field_of
from mcpfleet_local_cloud.state.store import Document


def apply_mask(current: Document, given: Document, mask: str) -> Document:
    """*current* with the fields that *mask* names (`labels,template.timeout`) as they are in *given*.

    Raises:
        GoogleError: INVALID_ARGUMENT, the mask names no field of a service.
    """
    if mask in ("", "*"):
        return given
    merged = copy.deepcopy(current)
    for path in mask.split(","):
        _copy_field(merged, given, path.strip())
    return merged


def _copy_field(target: Document, source: Document, path: str) -> None:
    message = "Service"
    *parents, last = path.split(".")
    for step in parents:
        field = _field(message, step, path)
        target = target.setdefault(field, {})
        source = source.get(field, {})
        message = MESSAGES[message][field]
        if message not in MESSAGES:
            raise invalid(f"update_mask: '{path}' goes into '{field}', which has no fields of its own.")
    field = _field(message, last, path)
    if field in source:
        target[field] = copy.deepcopy(source[field])
    else:
        target.pop(field, None)


def _field(message: str, name: str, path: str) -> str:
    field = field_of(message, name)
    if field is None or MESSAGES[message][field].endswith("!"):
        raise invalid(f"update_mask: '{path}' is no field of a service that can be changed.")
    return field
