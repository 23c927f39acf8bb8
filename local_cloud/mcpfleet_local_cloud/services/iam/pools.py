"""Workload identity pools and their OIDC providers: what they are, and whether tokens of theirs count. Knows no HTTP.

As on Google a deleted one is kept for 30 days, may be undeleted, and keeps its name from being used again.
"""

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from mcpfleet_local_cloud.identity import mapping
from mcpfleet_local_cloud.identity.external import key_set, on_this_machine
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.rest.masks import merge_masked_fields
from mcpfleet_local_cloud.state.store import Document, Store, StoreCache

POOL: Final = "workloadIdentityPool"
PROVIDER: Final = "workloadIdentityPoolProvider"
_ID: Final = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
_KEPT_SECONDS: Final = 30 * 24 * 3600
_OUTPUT_ONLY: Final = ("name", "state", "expireTime")
_SCHEMA: Final = {POOL: "WorkloadIdentityPool", PROVIDER: "WorkloadIdentityPoolProvider"}
_LIMITS: Final = {"displayName": 32, "description": 256}
_AUDIENCES: Final = 10
_AUDIENCE: Final = 256
_URI: Final = 2000
_CUSTOM: Final = 50
# Issuers of many tenants: a provider that lets in every token of theirs lets everybody in.
_SHARED: Final = (
    "https://token.actions.githubusercontent.com",
    "https://gitlab.com",
    "https://app.terraform.io",
    "https://agent.buildkite.com",
)
_UNCONDITIONAL: Final = (
    "The attribute condition must reference one of the provider's claims. For more information, see "
    "https://cloud.google.com/iam/docs/workload-identity-federation-with-deployment-pipelines#conditions"
)


class Pools:
    """The pools of one cloud and their providers, by full name (`projects/NUMBER/locations/global/…`)."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._active = StoreCache[str, bool](store)

    def active(self, pool: str) -> bool:
        """Whether tokens for identities of *pool* count: it exists, and is neither disabled nor deleted."""
        known = self._active.get(pool)
        if known is None:
            known = _usable(self._store.get(POOL, pool))
            self._active.put(pool, known)
        return known

    def exchanging(self, name: str) -> Document | None:
        """The provider of that full name where its tokens may be exchanged now; None of any other."""
        provider = self._store.get(PROVIDER, name)
        usable = _usable(provider) and self.active(name.partition("/providers/")[0])
        return provider if usable else None

    def exists(self, pool: str) -> bool:
        """Whether there is such a pool, which is not deleted."""
        return (self._store.get(POOL, pool) or {}).get("state") == "ACTIVE"

    def list(self, kind: str, parent: str, *, deleted: bool = False) -> list[Document]:
        """The pools or providers below *parent*, by name; the deleted ones only if asked for."""
        self._purge(kind)
        return [one for _, one in self._store.list(kind, f"{parent}/") if deleted or one["state"] == "ACTIVE"]

    def get(self, kind: str, name: str) -> Document:
        """The pool or provider of that full name, also a deleted one.

        Raises:
            GoogleError: NOT_FOUND.
        """
        self._purge(kind)
        found = self._store.get(kind, name)
        if found is None:
            raise GoogleError("NOT_FOUND", "Requested entity was not found.")
        return found

    def create(self, kind: str, name: str, body: Document) -> Document:
        """Make it.

        Raises:
            GoogleError: ALREADY_EXISTS (also one that was deleted), INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        if not _ID.fullmatch(name.rpartition("/")[2]):
            raise invalid(
                f"{name.rpartition('/')[2]!r} is no id: 4 to 32 lower-case letters, digits and hyphens, and not "
                "beginning with gcp-."
            )
        made = {"name": name, "state": "ACTIVE", **_checked(kind, body)}
        self._purge(kind)
        if not self._store.insert(kind, name, made):
            raise GoogleError("ALREADY_EXISTS", "Requested entity already exists")
        return made

    def update(self, kind: str, name: str, body: Document, mask: str) -> Document:
        """Change what *mask* names; without a mask, what the body has.

        Raises:
            GoogleError: NOT_FOUND, FAILED_PRECONDITION (deleted), INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        found = self.get(kind, name)
        if found["state"] != "ACTIVE":
            raise GoogleError("FAILED_PRECONDITION", f"{name} is deleted; undelete it first.")
        fields = {field: value for field, value in found.items() if field not in _OUTPUT_ONLY}
        if mask or body:
            fields = merge_masked_fields("iam.v1", _SCHEMA[kind], fields, body, mask or ",".join(body))
        kept = {"name": name, "state": "ACTIVE", **_checked(kind, fields)}
        self._store.put(kind, name, kept)
        return kept

    def delete(self, kind: str, name: str) -> Document:
        """Mark it as deleted.

        Raises:
            GoogleError: NOT_FOUND, FAILED_PRECONDITION (deleted already).
        """
        found = self.get(kind, name)
        if found["state"] != "ACTIVE":
            raise GoogleError("FAILED_PRECONDITION", "Precondition check failed.")
        expires = json_api.format_timestamp(int(self._clock()) + _KEPT_SECONDS, "seconds")
        kept = {**found, "state": "DELETED", "expireTime": expires}
        self._store.put(kind, name, kept)
        return kept

    def undelete(self, kind: str, name: str) -> Document:
        """Take the deletion back.

        Raises:
            GoogleError: NOT_FOUND, FAILED_PRECONDITION (not deleted).
        """
        found = self.get(kind, name)
        if found["state"] != "DELETED":
            raise GoogleError("FAILED_PRECONDITION", "Precondition check failed.")
        kept = {field: value for field, value in found.items() if field != "expireTime"} | {"state": "ACTIVE"}
        self._store.put(kind, name, kept)
        return kept

    def names(self) -> "list[str]":
        """Every pool and provider that is not deleted."""
        return [name for kind in (POOL, PROVIDER) for name, one in self._store.list(kind) if one["state"] == "ACTIVE"]

    def forget_deleted(self) -> None:
        """Purge what is deleted now, without waiting for 30 days."""
        for kind in (POOL, PROVIDER):
            for name, one in self._store.list(kind):
                if one["state"] == "DELETED":
                    self._store.delete(kind, name)

    def _purge(self, kind: str) -> None:
        now = json_api.format_timestamp(int(self._clock()), "seconds")
        for name, one in self._store.list(kind):
            if one.get("expireTime", now) < now:
                self._store.delete(kind, name)


def _usable(found: Document | None) -> bool:
    return found is not None and found["state"] == "ACTIVE" and not found.get("disabled")


def _checked(kind: str, body: Document) -> Document:
    """The fields of *body* that are kept.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    at = "workload_identity_pool" if kind == POOL else "workload_identity_pool_provider"
    if kind == POOL and body.get("mode") not in (None, "MODE_UNSPECIFIED", "FEDERATION_ONLY"):
        raise unimplemented(f"{at}.mode", "pools are for federation alone.")
    kept: Document = {}
    for field, limit in _LIMITS.items():
        if text := body.get(field, ""):
            if len(text) > limit:
                raise invalid(f"{at}.{field}: cannot exceed {limit} characters.")
            kept[field] = text
    if body.get("disabled"):
        kept["disabled"] = True
    return kept if kind == POOL else {**kept, **_provider(body, at)}


def _provider(body: Document, at: str) -> Document:
    oidc: Document | None = body.get("oidc")
    if oidc is None:
        raise invalid(f"{at}.oidc: must be set.")
    kept: Document = {"oidc": {"issuerUri": _issuer(json_api.require_field(oidc, "issuerUri", f"{at}.oidc"), at)}}
    audiences: list[str] = oidc.get("allowedAudiences", [])
    if audiences:
        if len(audiences) > _AUDIENCES or any(not 0 < len(one) <= _AUDIENCE for one in audiences):
            raise invalid(f"{at}.oidc.allowed_audiences: at most {_AUDIENCES}, of 1 to {_AUDIENCE} characters each.")
        kept["oidc"]["allowedAudiences"] = audiences
    keys: str = oidc.get("jwksJson", "")
    if keys:
        try:
            key_set(keys)
        except ValueError as refusal:
            raise invalid(f"{at}.oidc.jwks_json: not a JSON Web Key Set: {refusal}") from refusal
        kept["oidc"]["jwksJson"] = keys
    kept["attributeMapping"] = _mapping(body.get("attributeMapping", {}), at)
    condition: str = body.get("attributeCondition", "")
    if condition:
        _check(
            condition, f"{at}.attribute_condition", mapping.CONDITION, frozenset({"assertion", "google", "attribute"})
        )
        kept["attributeCondition"] = condition
    shared = kept["oidc"]["issuerUri"].rstrip("/") in _SHARED
    if shared and not re.search(r"\b(?:assertion|google|attribute)\b", condition):
        raise invalid(_UNCONDITIONAL)
    return kept


def _issuer(uri: str, at: str) -> str:
    try:
        parts = urlsplit(uri)
        whole = bool(parts.hostname) and not parts.query and not parts.fragment and parts.username is None
    except ValueError:
        whole, parts = False, urlsplit("")
    local = parts.scheme == "http" and on_this_machine(uri)
    if len(uri) > _URI or not whole or not (parts.scheme == "https" or local):
        raise invalid(
            f"{at}.oidc.issuer_uri: {uri[:200]!r} must be a URI with https:// (here also http:// on this machine) and "
            "without query and fragment."
        )
    return uri


def _mapping(found: dict[str, str], at: str) -> dict[str, str]:
    if not all(found.values()):
        raise invalid(f"{at}.attribute_mapping: no expression may be empty.")
    if "google.subject" not in found:
        raise invalid(f"{at}.attribute_mapping: google.subject must be mapped, for example from assertion.sub.")
    if len(found) > _CUSTOM:
        raise invalid(f"{at}.attribute_mapping: at most {_CUSTOM} attributes can be mapped.")
    for key, expression in found.items():
        if wrong := mapping.check_key(key):
            raise invalid(f"{at}.attribute_mapping: {key!r}: {wrong}.")
        _check(expression, f"{at}.attribute_mapping[{key}]", mapping.EXPRESSION, frozenset({"assertion"}))
    return {key: found[key] for key in sorted(found)}


def _check(expression: str, at: str, limit: int, variables: frozenset[str]) -> None:
    if len(expression) > limit:
        raise invalid(f"{at}: cannot exceed {limit} characters.")
    try:
        mapping.check(expression, variables)
    except mapping.ExpressionError as refusal:
        raise invalid(f"{at}: {refusal}.") from refusal
