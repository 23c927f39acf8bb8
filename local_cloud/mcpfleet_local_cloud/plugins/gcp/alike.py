"""Values that mean the same although they are spelled differently: the diff suppress functions of the real provider.

Each takes what the API answered and what the program gives, an empty string for nothing. The facts are from
terraform-provider-google-beta 7.45: tpgresource/self_link_helpers.go, tpgresource/common_diff_suppress.go and
services/compute/resource_compute_forwarding_rule.go.
"""

import ipaddress
import re
from typing import Any

from mcpfleet_local_cloud.plugins.properties import Alike


def same_path(old: Any, new: Any) -> bool:
    """Whether both name one resource in full, as a URL or from `projects/` on (CompareSelfLinkRelativePaths)."""
    path = _path(old)
    return bool(path) and path == _path(new)


def same_resource(old: Any, new: Any) -> bool:
    """The same; the new one may be its short name (CompareSelfLinkOrResourceName)."""
    return same_path(old, new) or ("/" not in str(new) and str(old).rpartition("/")[2] == str(new))


def same_ports(old: Any, new: Any) -> bool:
    """Whether `443-443` and `443` (PortRangeDiffSuppress)."""
    return bool(old == f"{new}-{new}")


def same_address(old: Any, new: Any) -> bool:
    """Whether an IP and a reference, which the API answers as the IP, or the same IP (InternalIpDiffSuppress)."""
    before, now = _ip(old), _ip(new)
    return before is not None and now in (None, before)


def same_but_number(old: Any, new: Any) -> bool:
    """Whether they differ at most in the project, which the API answers by its number (ProjectNumberDiffSuppress)."""
    by_number = re.sub(r"projects/\d+", "projects/equal", str(old))
    return by_number == re.sub(r"projects/[^/]+", "projects/equal", str(new))


def same_or_default(default: str) -> Alike:
    """Whether one is nothing, the other *default* (EmptyOrDefaultStringSuppress)."""
    return lambda old, new: {old, new} == {"", default}


def _path(value: Any) -> str:
    _, mark, rest = str(value).partition("projects/")
    return mark + rest


def _ip(value: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(value).partition("/")[0])
    except ValueError:
        return None
