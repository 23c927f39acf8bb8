"""IAM policies of every resource: one place that keeps them, one way to change them, one answer to "may they?".

A policy belongs to a resource's full name (`projects/P/locations/L/services/S`) and counts for everything below it.
Members are checked as Google checks them: a service account must exist, and a workload identity pool of this project;
people and groups have no directory here, so only their form is checked; `groups.py` says who is in a group. Conditions
are refused (501).
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
# The members of each role; named here, because `set` means a method inside the class below.
_Kept = dict[str, set[str]]
# Google's etag of a policy that nobody has set yet.
EMPTY_ETAG: Final = "ACAB"
_EMAIL: Final = re.compile(r"[^@\s:]+@[^@\s:]+\.[^@\s:.]+")
_DOMAIN: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+")
_EVERYBODY: Final = frozenset({"allUsers", "allAuthenticatedUsers"})
_TYPES: Final = frozenset({"user", "serviceAccount", "group", "domain"})
_PRINCIPAL: Final = re.compile(
    r"principal(?:Set)?://(?:iam|cloudresourcemanager|[a-z0-9.-]+)\.googleapis\.com/\S+|"
    r"principal(?:Set)?://goog/\S+|principal(?:Set)?://agents\.global\.\S+"
)
_FEDERATED: Final = ("principal://", "principalSet://")
_POOL: Final = re.compile(
    r"principal(?:Set)?://iam\.googleapis\.com/(?P<pool>projects/[^/]+/locations/global/workloadIdentityPools/[^/]+)/.*"
)
# Accounts that Google makes itself for its services ("service agents"); they are nobody's to list.
_AGENT: Final = re.compile(
    r"service-[0-9]+@[a-z0-9-]+\.iam\.gserviceaccount\.com|[0-9]+@cloudservices\.gserviceaccount\.com"
)


class Policies:
    """The policies of one cloud.

    Args:
        store: where they are kept.
        account_exists: whether there is a service account of that e-mail.
        groups_of: the groups (their addresses) that an address is in; follows from *store*.
        pool_missing: whether a workload identity pool (its full name) would be this cloud's, and is not there.
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
        """The policy of *resource*; like Google's, without `bindings` where there are none."""
        return self._store.get(KIND, resource) or {"version": 1, "etag": EMPTY_ETAG}

    def set(self, resource: str, policy: Document) -> Document:
        """Replace the policy of *resource*, and return it as it is kept.

        Without an `etag` the write is unconditional, as in Google's API.

        Raises:
            GoogleError: ABORTED (the etag is an old one), INVALID_ARGUMENT (member, role, version).
        """
        if policy.get("version", 0) not in (0, 1, 3):
            raise invalid(f"Invalid policy version {policy['version']}: 0, 1 and 3 are valid.")
        with self._store.transaction():
            current = self.get(resource)
            if policy.get("etag") and policy["etag"] != current["etag"]:
                raise etag_conflict(resource)
            kept = self._checked(resource, policy.get("bindings") or [], current)
            return self._write(resource, kept)

    def delete(self, resource: str) -> None:
        """Forget the policy, with the resource."""
        self._store.delete(KIND, resource)

    def allows(self, email: str | None, permission: str, resource: str) -> bool:
        """Whether *email* has *permission* on *resource*.

        None is nobody known, an empty one somebody known without an address, a `Principal` a federated identity.
        """
        key = (email, sets_of(email), permission, resource)
        known = self._allowed.get(key)
        if known is None:
            known = self._allows(email, permission, resource)
            self._allowed.put(key, known)
        return known

    def held(self, email: str, asked: list[str], resource: str) -> list[str]:
        """Which of the permissions *asked* for `testIamPermissions` *email* has on *resource*.

        Raises:
            GoogleError: INVALID_ARGUMENT: a wildcard, or one that means nothing there.
        """
        for permission in asked:
            if not roles.testable(permission, resource):
                raise invalid(f"Permission {permission} is not valid for this resource.")
        return [one for one in asked if self.allows(email, one, resource)]

    def _allows(self, email: str | None, permission: str, resource: str) -> bool:
        names = self._names(email)
        for ancestor in _lineage(resource):
            for binding in self.get(ancestor).get("bindings", []):
                if not roles.grants(binding["role"], permission):
                    continue
                if any(_canonical(member) in names for member in binding["members"]):
                    return True
        return False

    def _names(self, email: str | None) -> frozenset[str]:
        """Every way in which a policy may name the caller."""
        if email is None:
            return frozenset({"allUsers"})
        if isinstance(email, Principal):  # no Google account, so not of allAuthenticatedUsers
            return email.sets | {"allUsers", str(email)}
        address = email.lower()
        groups = {f"group:{group}" for group in self._groups_of(address)} if address else set[str]()
        domain = f"domain:{address.partition('@')[2]}"
        return _EVERYBODY | groups | {f"user:{address}", f"serviceAccount:{address}", domain}

    def mark_deleted(self, email: str, unique_id: str) -> None:
        """Rename a service account that is gone in every policy, so that a new one of its name inherits nothing."""
        member, tombstone = f"serviceAccount:{email}", f"deleted:serviceAccount:{email}?uid={unique_id}"
        with self._store.transaction():
            for resource, policy in self._store.list(KIND):
                bindings = policy.get("bindings", [])
                if not any(member in binding["members"] for binding in bindings):
                    continue
                kept = {
                    binding["role"]: {tombstone if one == member else one for one in binding["members"]}
                    for binding in bindings
                }
                self._write(resource, kept)

    def _checked(self, resource: str, bindings: list[Document], current: Document) -> _Kept:
        # A member that was deleted since may stay, or no one could write the rest of the policy back.
        gone = {
            member
            for binding in current.get("bindings", [])
            for member in binding["members"]
            if member.startswith("deleted:")
        }
        kept: _Kept = {}
        for index, binding in enumerate(bindings):
            _check_binding(index, binding)
            role = binding["role"]
            if not roles.supported(role, resource):
                raise invalid(f"Role {role} is not supported for this resource.")
            members = {_canonical(member) for member in binding.get("members", [])}
            for member in sorted(members - gone):
                self._check_member(member)
            if members:
                kept.setdefault(role, set()).update(members)
        return kept

    def _check_member(self, member: str) -> None:
        if member in _EVERYBODY:
            return
        if member.startswith(_FEDERATED):
            # Of another project's pool: nobody here can ever be such a member, so it grants nothing.
            if not _PRINCIPAL.fullmatch(member):
                raise invalid(
                    f"The member {member} is not valid: it names no identity of a workload or workforce pool."
                )
            pool = _POOL.fullmatch(member)
            if pool is not None and self._pool_missing(pool["pool"]):
                raise invalid(
                    f"Identity Pool does not exist ({pool['pool']}). Please check that you specified a valid resource "
                    "name as returned in the `name` attribute in the configuration API."
                )
            return
        kind, _, name = member.partition(":")
        if kind == "deleted" and name:
            raise invalid(f"The member {member} was deleted; only a policy that holds it already may keep it.")
        if kind not in _TYPES or not name:
            raise invalid(f"The member {member} is of an unknown type. Please set a valid type prefix for the member.")
        pattern = _DOMAIN if kind == "domain" else _EMAIL
        if not pattern.fullmatch(name):
            wanted = "a domain" if kind == "domain" else "an e-mail address"
            raise invalid(f"The member {member} is not valid: {name!r} is not {wanted}.")
        if kind == "serviceAccount" and not is_service_agent(name) and not self._account_exists(name):
            raise invalid(f"Service account {name} does not exist.")

    def _write(self, resource: str, kept: _Kept) -> Document:
        policy: Document = {"version": 1, "etag": self._new_etag()}
        if kept:
            policy["bindings"] = [{"role": role, "members": sorted(kept[role])} for role in sorted(kept)]
        self._store.put(KIND, resource, policy)
        return policy

    def _new_etag(self) -> str:
        # Eight bytes whose first is 7, as Google's are; never given twice.
        number = self._store.next_number("policy-etag")
        return base64.b64encode(b"\x07" + number.to_bytes(7, "big")).decode()


def is_service_agent(email: str) -> bool:
    """Whether *email* is an account that Google makes by itself for one of its services."""
    return _AGENT.fullmatch(email) is not None


def policy_from(body: Document) -> Document:
    """The policy in the body of a setIamPolicy call.

    `updateMask` names what to change; all that this cloud keeps is `bindings` and `etag`, so a mask without
    `bindings` is refused.

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


def _canonical(member: str) -> str:
    """E-mail addresses do not distinguish case; Google keeps them in lower case."""
    kind, colon, name = member.partition(":")
    return f"{kind}:{name.lower()}" if colon and kind in _TYPES else member


def _lineage(resource: str) -> Iterator[str]:
    parts = resource.split("/")
    for length in range(len(parts) - len(parts) % 2, 0, -2):
        yield "/".join(parts[:length])
