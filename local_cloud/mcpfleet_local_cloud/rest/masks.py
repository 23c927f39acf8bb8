"""Field masks: which fields of a message a PATCH changes."""

import copy

from starlette.requests import Request

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.reading import METHOD, Field, fields_of, snake
from mcpfleet_local_cloud.rest.schemas import Method
from mcpfleet_local_cloud.state.store import Document


def masked(request: Request, body: Document) -> list[str]:
    """The fields of *body*'s message that the request's `updateMask` names, or those that *body* has without one.

    Either spelling may name them, and a path into a field stands for the field. A field that is refused here cannot be
    set, so that a mask with it changes nothing.

    Raises:
        GoogleError: INVALID_ARGUMENT: the mask names no field, or one that only the API writes.
    """
    method: Method = request.scope[METHOD]
    paths = [path.strip() for path in request.query_params.get("updateMask", "").split(",") if path.strip()]
    if not paths or paths == ["*"]:
        return list(body)
    found = [_changed(method.api, method.request, path.partition(".")[0], path, method.request) for path in paths]
    return [one.name for one in found if one.standing.kind != "refused"]


def merged(api: str, schema: str, current: Document, given: Document, mask: str) -> Document:
    """*current* with the fields that *mask* names (`labels,template.timeout`) as they are in *given*.

    Raises:
        GoogleError: INVALID_ARGUMENT: the mask names no field, or one that only the API writes.
    """
    if mask in ("", "*"):
        return given
    result = copy.deepcopy(current)
    for path in mask.split(","):
        _copy_field(api, schema, result, given, path.strip())
    return result


def _copy_field(api: str, schema: str, target: Document, source: Document, path: str) -> None:
    root = schema
    *parents, last = path.split(".")
    for step in parents:
        found = _changed(api, schema, step, path, root)
        schema = found.kind
        if not schema[0].isupper():
            raise invalid(f"update_mask: '{path}' goes into '{found.name}', which has no fields of its own.")
        target = target.setdefault(found.name, {})
        source = source.get(found.name, {})
    field = _changed(api, schema, last, path, root).name
    if field in source:
        target[field] = copy.deepcopy(source[field])
    else:
        target.pop(field, None)


def _changed(api: str, schema: str, name: str, path: str, root: str) -> Field:
    found = fields_of(api, schema).get(name)
    if found is None or found.standing.kind == "written":
        raise invalid(f"update_mask: '{path}' is no field of a {snake(root)} that can be changed.")
    return found
