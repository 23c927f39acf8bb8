"""The JSON types of a repository's fields: what is kept is rendered, and applied at each push, so it must be right.

And which images cleanup policies would delete: a version that any KEEP policy matches stays, whatever a DELETE policy
says (cloud.google.com/artifact-registry/docs/repositories/cleanup-policy). Times are in seconds since 1970.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.wire import as_list, as_object, number
from mcpfleet_local_cloud.state.store import Document

_DURATION: Final = re.compile(r"(\d{1,12})(?:\.\d{1,9})?s", re.ASCII)


@dataclass(frozen=True)
class Version:
    """One manifest of an image."""

    package: str
    digest: str
    tags: tuple[str, ...]
    uploaded: float


def doomed(versions: Iterable[Version], policies: Mapping[str, Any], now: float) -> list[Version]:
    """The versions that a DELETE policy matches and no KEEP policy does."""
    every = list(versions)
    kept: set[Version] = set()
    deleted: set[Version] = set()
    for policy in policies.values():
        matched = _matches(every, policy, now)
        (kept if policy.get("action") == "KEEP" else deleted).update(matched)
    return [version for version in every if version in deleted and version not in kept]


def seconds(duration: str) -> float:
    """`2592000s` in seconds.

    Raises:
        ValueError: not a duration as protobuf writes it in JSON.
    """
    match = _DURATION.fullmatch(duration)
    if match is None:
        raise ValueError(f'"{duration}" is not a duration such as 2592000s')
    return float(duration[:-1])


def _matches(versions: list[Version], policy: Mapping[str, Any], now: float) -> list[Version]:
    recent = policy.get("mostRecentVersions")
    if recent is not None:
        return _most_recent(versions, recent)
    condition = as_object(policy.get("condition")) or {}
    return [version for version in versions if _fits(version, condition, now)]


def _most_recent(versions: list[Version], recent: Mapping[str, Any]) -> list[Version]:
    prefixes = tuple(recent.get("packageNamePrefixes", ()))
    packages: dict[str, list[Version]] = {}
    for version in versions:
        if not prefixes or version.package.startswith(prefixes):
            packages.setdefault(version.package, []).append(version)
    count = int(recent.get("keepCount", 0))
    newest = (sorted(group, key=lambda version: version.uploaded, reverse=True) for group in packages.values())
    return [version for group in newest for version in group[:count]]


def _fits(version: Version, condition: Mapping[str, Any], now: float) -> bool:
    state = condition.get("tagState", "ANY")
    if (state == "TAGGED" and not version.tags) or (state == "UNTAGGED" and version.tags):
        return False
    tag_prefixes = tuple(condition.get("tagPrefixes", ()))
    if tag_prefixes and not any(tag.startswith(tag_prefixes) for tag in version.tags):
        return False
    for key, name in (("packageNamePrefixes", version.package), ("versionNamePrefixes", version.digest)):
        prefixes = tuple(condition.get(key, ()))
        if prefixes and not name.startswith(prefixes):
            return False
    age = now - version.uploaded
    if "olderThan" in condition and age <= seconds(condition["olderThan"]):
        return False
    return "newerThan" not in condition or age < seconds(condition["newerThan"])


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
