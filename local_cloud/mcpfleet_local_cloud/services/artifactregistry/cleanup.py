"""Selects the images that cleanup policies delete. A version that matches a KEEP policy is never deleted.

Source: cloud.google.com/artifact-registry/docs/repositories/cleanup-policy. Times are in seconds since 1970.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from mcpfleet_local_cloud.rest.json_api import as_object

_DURATION: Final = re.compile(r"(\d{1,12})(?:\.\d{1,9})?s", re.ASCII)


@dataclass(frozen=True)
class Version:
    """One manifest of an image."""

    package: str
    digest: str
    tags: tuple[str, ...]
    uploaded: float


def find_deletable(versions: Iterable[Version], policies: Mapping[str, Any], now: float) -> list[Version]:
    """Find the versions that match a DELETE policy and no KEEP policy."""
    all_versions = list(versions)
    protected: set[Version] = set()
    deleted: set[Version] = set()
    for policy in policies.values():
        matched = _matches(all_versions, policy, now)
        (protected if policy.get("action") == "KEEP" else deleted).update(matched)
    return [version for version in all_versions if version in deleted and version not in protected]


def parse_duration(duration: str) -> float:
    """Parse a duration such as `2592000s`; return seconds.

    Raises:
        ValueError: *duration* is no duration in protobuf's JSON format.
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
    return [version for version in versions if _meets_condition(version, condition, now)]


def _most_recent(versions: list[Version], recent: Mapping[str, Any]) -> list[Version]:
    prefixes = tuple(recent.get("packageNamePrefixes", ()))
    packages: dict[str, list[Version]] = {}
    for version in versions:
        if not prefixes or version.package.startswith(prefixes):
            packages.setdefault(version.package, []).append(version)
    count = int(recent.get("keepCount", 0))
    newest = (sorted(group, key=lambda version: version.uploaded, reverse=True) for group in packages.values())
    return [version for group in newest for version in group[:count]]


def _meets_condition(version: Version, condition: Mapping[str, Any], now: float) -> bool:
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
    if "olderThan" in condition and age <= parse_duration(condition["olderThan"]):
        return False
    return "newerThan" not in condition or age < parse_duration(condition["newerThan"])
