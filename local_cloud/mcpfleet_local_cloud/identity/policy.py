"""The IAM policies of all resources: stores them, checks changes, and decides whether a caller has a permission.

A policy belongs to a resource's full name (`projects/P/locations/L/services/S`) and applies to everything below it.
As on Google, a member must exist if it is a service account or in a workload identity pool of this project. There is no
directory of users and groups, so only their format is checked; `groups.py` has the members of groups. Conditions are
rejected (501).
"""

import base64
import re
from collections.abc import Callable, Iterator
from typing import Final

from mcpfleet_local_cloud.identity import roles
from mcpfleet_local_cloud.identity.principals import Principal, sets_of
from mcpfleet_local_cloud.rest.errors import etag_conflict, invalid, unimplemented
from mcpfleet_local_cloud.state.store import Document, Store, StoreCache

KIND: Final = "policy"
# Defined outside of the class, in which `set` is a method.
_MembersByRole = dict[str, set[str]]
# Google's etag of a policy that was never set.
EMPTY_ETAG: Final = "ACAB"
_EMAIL: Final = re.compile(r"[^@\s:]+@[^@\s:]+\.[^@\s:.]+")
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_PUBLIC_MEMBERS: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
_MEMBER_TYPES: Final = frozenset({"user", "serviceAccount", "group", "domain"})
_PRINCIPAL: Final = re.compile(
    r"principal(?:Set)?://(?:iam|cloudresourcemanager|[a-z0-9.-]+)\.googleapis\.com/\S+|"
    r"principal(?:Set)?://goog/\S+|principal(?:Set)?://agents\.global\.\S+"
)
_FEDERATED: Final = ("principal://", "principalSet://")
_POOL: Final = re.compile(
    r"principal(?:Set)?://iam\.googleapis\.com/(?P<pool>projects/[^/]+/locations/global/workloadIdentityPools/[^/]+)/.*"
)
# Service agents: accounts that Google creates for its services; no API lists them.
_SERVICE_AGENT: Final = re.compile(
    r"service-[0-9]+@[a-z0-9-]+\.iam\.gserviceaccount\.com|[0-9]+@cloudservices\.gserviceaccount\.com"
)


class Policies:
    """The policies of one cloud.

    Args:
        store: stores the policies.
        account_exists: whether a service account with an email exists.
        groups_of: the addresses of the groups that an address is a member of; depends only on *store*.
        pool_missing: whether a workload identity pool, by its full name, belongs to this cloud but doesn't exist.
    """

    def __init__(
        self,
        store: Store,
        account_exists: Callable[[str], bool],
        pool_missing: Callable[[str], bool] = lambda _: False,
        groups_of: Callable[[str], frozenset[str]] = lambda _: frozenset(),
    ) -> None:
        self._store = store
        self._allowed = StoreCache[tuple[str | None, frozenset[str], str, str], bool](store)
        self._account_exists = account_exists
        self._pool_missing = pool_missing
        self._groups_of = groups_of

    def get(self, resource: str) -> Document:
        """The policy of *resource*; as on Google, it has no field `bindings` if there are none."""
        return self._store.get(KIND, resource) or {"version": 1, "etag": EMPTY_ETAG}

    def set(self, resource: str, policy: Document) -> Document:
        """Replace the policy of *resource*; returns the stored policy.

        Without an `etag`, the write is unconditional, as in Google's API.

        Raises:
            GoogleError: ABORTED (the etag is not current), INVALID_ARGUMENT (member, role, version).
        """
        if policy.get("version", 0) not in (0, 1, 3):
            raise invalid(f"Invalid policy version {policy['version']}: 0, 1 and 3 are valid.")
        with self._store.transaction():
            current = self.get(resource)
            if policy.get("etag") and policy["etag"] != current["etag"]:
                raise etag_conflict(resource)
            members_by_role = self._check_bindings(resource, policy.get("bindings") or [], current)
            return self._write(resource, members_by_role)

    def delete(self, resource: str) -> None:
        """Delete the policy of a deleted resource."""
        self._store.delete(KIND, resource)

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Whether the caller *email* has *permission* on *resource*.

        None is an unauthenticated caller, an empty string an authenticated caller without an email, a `Principal` a
        federated identity.
        """
        key = (email, sets_of(email), permission, resource)
        is_allowed = self._allowed.get(key)
        if is_allowed is None:
            is_allowed = self._allows(email, permission, resource)
            self._allowed.put(key, is_allowed)
        return is_allowed

    def filter_permissions(self, email: str, permissions: list[str], resource: str) -> list[str]:
        """The *permissions* that *email* has on *resource*, for `testIamPermissions`.

        Raises:
            GoogleError: INVALID_ARGUMENT: a permission is a wildcard, or doesn't apply to the resource.
        """
        for permission in permissions:
            if not roles.is_testable(permission, resource):
                raise invalid(f"Permission {permission} is not valid for this resource.")
        return [name for name in permissions if self.allows(email, name, resource)]

    def _allows(self, email: str | None, permission: str, resource: str) -> bool:
        names = self._member_names(email)
        for ancestor in _ancestors(resource):
            for binding in self.get(ancestor).get("bindings", []):
                if not roles.has_permission(binding["role"], permission):
                    continue
                if any(_normalize(member) in names for member in binding["members"]):
                    return True
        return False

    def _member_names(self, email: str | None) -> frozenset[str]:
        """All members of policies that include the caller."""
        if email is None:
            return frozenset({"allUsers"})
        if isinstance(email, Principal):  # not a Google account, so not in allAuthenticatedUsers
            return email.sets | {"allUsers", str(email)}
        address = email.lower()
        groups = {f"group:{group}" for group in self._groups_of(address)} if address else set[str]()
        domain = f"domain:{address.partition('@')[2]}"
        return _PUBLIC_MEMBERS | groups | {f"user:{address}", f"serviceAccount:{address}", domain}

    def mark_deleted(self, email: str, unique_id: str) -> None:
        """Replace a deleted service account in all policies, so that a new account with its name inherits no role."""
        member, tombstone = f"serviceAccount:{email}", f"deleted:serviceAccount:{email}?uid={unique_id}"
        with self._store.transaction():
            for resource, policy in self._store.list(KIND):
                bindings = policy.get("bindings", [])
                if not any(member in binding["members"] for binding in bindings):
                    continue
                members_by_role = {
                    binding["role"]: {tombstone if other == member else other for other in binding["members"]}
                    for binding in bindings
                }
                self._write(resource, members_by_role)

    def _check_bindings(self, resource: str, bindings: list[Document], current: Document) -> _MembersByRole:
        # A member that was deleted may stay; otherwise, the rest of the policy could not be written back.
        deleted_members = {
            member
            for binding in current.get("bindings", [])
            for member in binding["members"]
            if member.startswith("deleted:")
        }
        members_by_role: _MembersByRole = {}
        for index, binding in enumerate(bindings):
            _check_binding(index, binding)
            role = binding["role"]
            if not roles.is_grantable(role, resource):
                raise invalid(f"Role {role} is not supported for this resource.")
            members = {_normalize(member) for member in binding.get("members", [])}
            for member in sorted(members - deleted_members):
                self._check_member(member)
            if members:
                members_by_role.setdefault(role, set()).update(members)
        return members_by_role

    def _check_member(self, member: str) -> None:
        if member in _PUBLIC_MEMBERS:
            return
        if member.startswith(_FEDERATED):
            # A member in another project's pool is accepted; no caller of this cloud can be that member.
            if not _PRINCIPAL.fullmatch(member):
                raise invalid(f"The member {member} is not valid: it is no identity of a workload or workforce pool.")
            pool = _POOL.fullmatch(member)
            if pool is not None and self._pool_missing(pool["pool"]):
                raise invalid(
                    f"Identity Pool does not exist ({pool['pool']}). Please check that you specified a valid resource "
                    "name as returned in the `name` attribute in the configuration API."
                )
            return
        kind, _, name = member.partition(":")
        if kind == "deleted" and name:
            raise invalid(f"The member {member} was deleted; only a policy that has it already may keep it.")
        if kind not in _MEMBER_TYPES or not name:
            raise invalid(f"The member {member} is of an unknown type. Please set a valid type prefix for the member.")
        pattern = _DOMAIN if kind == "domain" else _EMAIL
        if not pattern.fullmatch(name):
            expected = "a domain" if kind == "domain" else "an e-mail address"
            raise invalid(f"The member {member} is not valid: {name!r} is not {expected}.")
        if kind == "serviceAccount" and not is_service_agent(name) and not self._account_exists(name):
            raise invalid(f"Service account {name} does not exist.")

    def _write(self, resource: str, members_by_role: _MembersByRole) -> Document:
        policy: Document = {"version": 1, "etag": self._new_etag()}
        if members_by_role:
            policy["bindings"] = [
                {"role": role, "members": sorted(members_by_role[role])} for role in sorted(members_by_role)
            ]
        self._store.put(KIND, resource, policy)
        return policy

    def _new_etag(self) -> str:
        # Eight bytes, the first of which is 7, as on Google; each etag is unique.
        number = self._store.next_number("policy-etag")
        return base64.b64encode(b"\x07" + number.to_bytes(7, "big")).decode()


def is_service_agent(email: str) -> bool:
    """Whether *email* is an account that Google creates for one of its services."""
    return _SERVICE_AGENT.fullmatch(email) is not None


def read_policy_body(body: Document) -> Document:
    """The policy in the body of a setIamPolicy call.

    The local cloud stores only `bindings` and `etag`, so it rejects an `updateMask` without `bindings`.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    policy: Document | None = body.get("policy")
    if policy is None:
        raise invalid("policy: must be set.")
    mask = [path for path in body.get("updateMask", "bindings,etag").split(",") if path]
    for path in mask:
        if path not in {"bindings", "etag", "version", "auditConfigs", "audit_configs"}:
            raise invalid(f"updateMask: the policy has no field {path!r}.")
    if "bindings" not in mask:
        raise unimplemented("updateMask", "a policy is changed with its bindings, or not at all.")
    return policy


def _check_binding(index: int, binding: Document) -> None:
    if not binding.get("role"):
        raise invalid(f"policy.bindings[{index}].role: must be set.")


def _normalize(member: str) -> str:
    """The member with its email address in lower case, as Google stores it; case doesn't matter in emails."""
    kind, colon, name = member.partition(":")
    return f"{kind}:{name.lower()}" if colon and kind in _MEMBER_TYPES else member


def _ancestors(resource: str) -> Iterator[str]:
    parts = resource.split("/")
    for length in range(len(parts) - len(parts) % 2, 0, -2):
        yield "/".join(parts[:length])
