"""The JSON types of a repository's fields: what is kept is rendered, and applied at each push, so it must be right."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.wire import as_list, as_object, number
from mcpfleet_local_cloud.state.store import Document

Shape = Callable[[Any, str], None]


def check(body: Mapping[str, Any], path: str) -> None:
    """Refuse a field of another type than the API's; absent and null fields are fine.

    Raises:
        GoogleError: INVALID_ARGUMENT with the field's path.
    """
    _object(_REPOSITORY)(body, path)


def without_nulls(body: Mapping[str, Any]) -> Document:
    """*body* without the fields that are null, at any depth: to protobuf they are absent."""
    return {name: _cleaned(value) for name, value in body.items() if value is not None}


def _cleaned(value: Any) -> Any:
    fields = as_object(value)
    return value if fields is None else without_nulls(fields)


def _text(value: Any, path: str) -> None:
    if not isinstance(value, str):
        raise invalid(f"{path}: must be a string.")


def _flag(value: Any, path: str) -> None:
    if not isinstance(value, bool):
        raise invalid(f"{path}: must be true or false.")


def _count(value: Any, path: str) -> None:
    if isinstance(value, bool) or number(str(value)) is None:
        raise invalid(f"{path}: must be a whole number, not negative.")


def _texts(value: Any, path: str) -> None:
    entries = as_list(value)
    if entries is None or not all(isinstance(entry, str) for entry in entries):
        raise invalid(f"{path}: must be a list of strings.")


def _map(of: Shape) -> Shape:
    def checked(value: Any, path: str) -> None:
        entries = as_object(value)
        if entries is None:
            raise invalid(f"{path}: must be a map.")
        for key, entry in entries.items():
            of(entry, f"{path}[{key}]")

    return checked


def _object(fields: Mapping[str, Shape]) -> Shape:
    def checked(value: Any, path: str) -> None:
        entries = as_object(value)
        if entries is None:
            raise invalid(f"{path}: must be an object.")
        for name, shape in fields.items():
            if entries.get(name) is not None:
                shape(entries[name], f"{path}.{name}")

    return checked


_CONDITION: Final = {
    "tagState": _text,
    "tagPrefixes": _texts,
    "versionNamePrefixes": _texts,
    "packageNamePrefixes": _texts,
    "olderThan": _text,
    "newerThan": _text,
}
_POLICY: Final = {
    "id": _text,
    "action": _text,
    "condition": _object(_CONDITION),
    "mostRecentVersions": _object({"packageNamePrefixes": _texts, "keepCount": _count}),
}
_REPOSITORY: Final[Mapping[str, Shape]] = {
    "name": _text,
    "format": _text,
    "mode": _text,
    "description": _text,
    "labels": _map(_text),
    "cleanupPolicies": _map(_object(_POLICY)),
    "cleanupPolicyDryRun": _flag,
    "dockerConfig": _object({"immutableTags": _flag}),
    "remoteRepositoryConfig": _object(
        {
            "description": _text,
            "disableUpstreamValidation": _flag,
            "dockerRepository": _object({"publicRepository": _text, "customRepository": _object({"uri": _text})}),
        }
    ),
}
