"""Comparison of values that can be written in several ways: the diff suppress functions of the real provider.

Each function takes the API's value and the program's value, an empty string if absent. The facts are from
terraform-provider-google-beta 7.45: tpgresource/self_link_helpers.go, tpgresource/common_diff_suppress.go and
services/compute/resource_compute_forwarding_rule.go.
"""

import ipaddress
import re
from typing import Any

from mcpfleet_local_cloud.plugins.properties import EquivalenceFunc


def same_path(old: Any, new: Any) -> bool:
    """Whether both are full names of the same resource, a URL or `projects/…` (CompareSelfLinkRelativePaths)."""
    path = _path(old)
    return bool(path) and path == _path(new)


def same_resource(old: Any, new: Any) -> bool:
    """Whether both name the same resource; *new* may be its short name (CompareSelfLinkOrResourceName)."""
    return same_path(old, new) or ("/" not in str(new) and str(old).rpartition("/")[2] == str(new))


def same_ports(old: Any, new: Any) -> bool:
    """Whether *old* is the range form of the port *new*: `443-443` for `443` (PortRangeDiffSuppress)."""
    return bool(old == f"{new}-{new}")


def same_address(old: Any, new: Any) -> bool:
    """Whether both are the same IP, or *new* is a reference, whose IP the API returns (InternalIpDiffSuppress)."""
    old_ip, new_ip = _ip(old), _ip(new)
    return old_ip is not None and new_ip in (None, old_ip)


def same_but_number(old: Any, new: Any) -> bool:
    """Whether both differ at most in the project, which the API returns as a number (ProjectNumberDiffSuppress)."""
    by_number = re.sub(r"projects/\d+", "projects/equal", str(old))
    return by_number == re.sub(r"projects/[^/]+", "projects/equal", str(new))


def same_or_default(default: str) -> EquivalenceFunc:
    """A function for whether one value is empty and the other is *default* (EmptyOrDefaultStringSuppress)."""
    return lambda old, new: {old, new} == {"", default}


def _path(value: Any) -> str:
    _, mark, rest = str(value).partition("projects/")
    return mark + rest


def _ip(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(value).partition("/")[0])
    except ValueError:
        return None
