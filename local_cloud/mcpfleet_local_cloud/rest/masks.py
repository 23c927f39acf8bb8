"""Field masks: which fields of a message a PATCH changes."""

import copy

from starlette.requests import Request

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.message_parser import METHOD, Field, fields_of, to_snake_case
from mcpfleet_local_cloud.rest.schemas import Method
from mcpfleet_local_cloud.state.store import Document


def find_masked_fields(request: Request, body: Document) -> list[str]:
    """Return the fields of *body*'s message that `updateMask` names; without a mask, all fields of *body*.

    The mask may use either spelling, and a path into a field stands for the field. A field that the local cloud refuses
    cannot be set, so that naming it in a mask changes nothing.

    Raises:
        GoogleError: INVALID_ARGUMENT: the mask names an unknown or output-only field.
    """
    method: Method = request.scope[METHOD]
    paths = [path.strip() for path in request.query_params.get("updateMask", "").split(",") if path.strip()]
    if not paths or paths == ["*"]:
        return list(body)
    fields = [
        _find_updatable_field(method.api, method.request, path.partition(".")[0], path, method.request)
        for path in paths
    ]
    return [field.name for field in fields if field.support.level != "refused"]


def merge_masked_fields(api: str, schema: str, current: Document, changes: Document, mask: str) -> Document:
    """Return *current* with the fields that *mask* names (`labels,template.timeout`) taken from *changes*.

    Raises:
        GoogleError: INVALID_ARGUMENT: the mask names an unknown or output-only field.
    """
    if mask in ("", "*"):
        return changes
    result = copy.deepcopy(current)
    for path in mask.split(","):
        _copy_field(api, schema, result, changes, path.strip())
    return result


def _copy_field(api: str, schema: str, target: Document, source: Document, path: str) -> None:
    root = schema
    *parents, last = path.split(".")
    for step in parents:
        parent = _find_updatable_field(api, schema, step, path, root)
        schema = parent.kind
        if not schema[0].isupper():
            raise invalid(f"update_mask: '{path}' goes into '{parent.name}', which has no fields of its own.")
        target = target.setdefault(parent.name, {})
        source = source.get(parent.name, {})
    field = _find_updatable_field(api, schema, last, path, root).name
    if field in source:
        target[field] = copy.deepcopy(source[field])
    else:
        target.pop(field, None)


def _find_updatable_field(api: str, schema: str, name: str, path: str, root: str) -> Field:
    field = fields_of(api, schema).get(name)
    if field is None or field.support.level == "output_only":
        raise invalid(f"update_mask: '{path}' is no field of a {to_snake_case(root)} that can be changed.")
    return field
