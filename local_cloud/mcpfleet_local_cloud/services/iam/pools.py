"""Workload identity pools and their OIDC providers. Has no HTTP.

As on Google, a deleted pool or provider is kept for 30 days. It can be undeleted, and its name cannot be used again.
"""

import re
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from mcpfleet_local_cloud.identity import mapping
from mcpfleet_local_cloud.identity.external import is_on_this_machine, parse_key_set
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid, unimplemented
from mcpfleet_local_cloud.rest.masks import merge_masked_fields
from mcpfleet_local_cloud.state.store import Document, Store, StoreCache

POOL: Final = "workloadIdentityPool"
PROVIDER: Final = "workloadIdentityPoolProvider"
_ID: Final = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
_RETENTION_SECONDS: Final = 30 * 24 * 3600
_OUTPUT_ONLY: Final = ("name", "state", "expireTime")
_SCHEMA: Final = {POOL: "WorkloadIdentityPool", PROVIDER: "WorkloadIdentityPoolProvider"}
_LIMITS: Final = {"displayName": 32, "description": 256}
_MAX_AUDIENCES: Final = 10
_MAX_AUDIENCE_LENGTH: Final = 256
_MAX_URI_LENGTH: Final = 2000
_MAX_ATTRIBUTES: Final = 50
# Issuers with many tenants: a provider that accepts each of their tokens would let everybody in.
_SHARED_ISSUERS: Final = (
    "https://token.actions.githubusercontent.com",
    "https://gitlab.com",
    "https://app.terraform.io",
    "https://agent.buildkite.com",
)
_CONDITION_REQUIRED: Final = (
    "The attribute condition must reference one of the provider's claims. For more information, see "
    "https://cloud.google.com/iam/docs/workload-identity-federation-with-deployment-pipelines#conditions"
)


class Pools:
    """The pools of one cloud and their providers, by full name (`projects/NUMBER/locations/global/…`)."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._active = StoreCache[str, bool](store)

    def is_active(self, pool: str) -> bool:
        """Whether identities of *pool* are accepted: it exists, and is neither disabled nor deleted."""
        active = self._active.get(pool)
        if active is None:
            active = _is_usable(self._store.get(POOL, pool))
            self._active.put(pool, active)
        return active

    def find_active_provider(self, name: str) -> Document | None:
        """Return the provider with that full name if it and its pool are active, else None."""
        provider = self._store.get(PROVIDER, name)
        usable = _is_usable(provider) and self.is_active(name.partition("/providers/")[0])
        return provider if usable else None

    def exists(self, pool: str) -> bool:
        """Whether the pool exists and is not deleted."""
        return (self._store.get(POOL, pool) or {}).get("state") == "ACTIVE"

    def list(self, kind: str, parent: str, *, include_deleted: bool = False) -> list[Document]:
        """List the pools or providers below *parent*, sorted by name; with *include_deleted*, the deleted ones, too."""
        self._purge_expired(kind)
        return [
            resource
            for _, resource in self._store.list(kind, f"{parent}/")
            if include_deleted or resource["state"] == "ACTIVE"
        ]

    def get(self, kind: str, name: str) -> Document:
        """Return the pool or provider with that full name, even if it is deleted.

        Raises:
            GoogleError: NOT_FOUND.
        """
        self._purge_expired(kind)
        resource = self._store.get(kind, name)
        if resource is None:
            raise GoogleError("NOT_FOUND", "Requested entity was not found.")
        return resource

    def create(self, kind: str, name: str, body: Document) -> Document:
        """Create a pool or provider.

        Raises:
            GoogleError: ALREADY_EXISTS (also for a deleted one), INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        if not _ID.fullmatch(name.rpartition("/")[2]):
            raise invalid(
                f"{name.rpartition('/')[2]!r} is no id: 4 to 32 lower-case letters, digits and hyphens, and not "
                "beginning with gcp-."
            )
        resource = {"name": name, "state": "ACTIVE", **_validate_fields(kind, body)}
        self._purge_expired(kind)
        if not self._store.insert(kind, name, resource):
            raise GoogleError("ALREADY_EXISTS", "Requested entity already exists")
        return resource

    def update(self, kind: str, name: str, body: Document, mask: str) -> Document:
        """Update the fields that *mask* names; without a mask, all fields of *body*.

        Raises:
            GoogleError: NOT_FOUND, FAILED_PRECONDITION (deleted), INVALID_ARGUMENT, UNIMPLEMENTED.
        """
        current = self.get(kind, name)
        if current["state"] != "ACTIVE":
            raise GoogleError("FAILED_PRECONDITION", f"{name} is deleted; undelete it first.")
        fields = {field: value for field, value in current.items() if field not in _OUTPUT_ONLY}
        if mask or body:
            fields = merge_masked_fields("iam.v1", _SCHEMA[kind], fields, body, mask or ",".join(body))
        updated = {"name": name, "state": "ACTIVE", **_validate_fields(kind, fields)}
        self._store.put(kind, name, updated)
        return updated

    def delete(self, kind: str, name: str) -> Document:
        """Mark it as deleted.

        Raises:
            GoogleError: NOT_FOUND, FAILED_PRECONDITION (deleted already).
        """
        resource = self.get(kind, name)
        if resource["state"] != "ACTIVE":
            raise GoogleError("FAILED_PRECONDITION", "Precondition check failed.")
        expires = json_api.format_timestamp(int(self._clock()) + _RETENTION_SECONDS, "seconds")
        deleted = {**resource, "state": "DELETED", "expireTime": expires}
        self._store.put(kind, name, deleted)
        return deleted

    def undelete(self, kind: str, name: str) -> Document:
        """Undelete a pool or provider.

        Raises:
            GoogleError: NOT_FOUND, FAILED_PRECONDITION (not deleted).
        """
        resource = self.get(kind, name)
        if resource["state"] != "DELETED":
            raise GoogleError("FAILED_PRECONDITION", "Precondition check failed.")
        restored = {field: value for field, value in resource.items() if field != "expireTime"} | {"state": "ACTIVE"}
        self._store.put(kind, name, restored)
        return restored

    def names(self) -> "list[str]":
        """List the names of all pools and providers that are not deleted."""
        return [
            name
            for kind in (POOL, PROVIDER)
            for name, resource in self._store.list(kind)
            if resource["state"] == "ACTIVE"
        ]

    def forget_deleted(self) -> None:
        """Purge all deleted pools and providers at once, without waiting for 30 days."""
        for kind in (POOL, PROVIDER):
            for name, resource in self._store.list(kind):
                if resource["state"] == "DELETED":
                    self._store.delete(kind, name)

    def _purge_expired(self, kind: str) -> None:
        now = json_api.format_timestamp(int(self._clock()), "seconds")
        for name, resource in self._store.list(kind):
            if resource.get("expireTime", now) < now:
                self._store.delete(kind, name)


def _is_usable(resource: Document | None) -> bool:
    return resource is not None and resource["state"] == "ACTIVE" and not resource.get("disabled")


def _validate_fields(kind: str, body: Document) -> Document:
    """Validate *body*; return the fields to store.

    Raises:
        GoogleError: INVALID_ARGUMENT, UNIMPLEMENTED.
    """
    path = "workload_identity_pool" if kind == POOL else "workload_identity_pool_provider"
    if kind == POOL and body.get("mode") not in (None, "MODE_UNSPECIFIED", "FEDERATION_ONLY"):
        raise unimplemented(f"{path}.mode", "pools are for federation alone.")
    fields: Document = {}
    for field, limit in _LIMITS.items():
        if text := body.get(field, ""):
            if len(text) > limit:
                raise invalid(f"{path}.{field}: cannot exceed {limit} characters.")
            fields[field] = text
    if body.get("disabled"):
        fields["disabled"] = True
    return fields if kind == POOL else {**fields, **_validate_provider(body, path)}


def _validate_provider(body: Document, path: str) -> Document:
    oidc: Document | None = body.get("oidc")
    if oidc is None:
        raise invalid(f"{path}.oidc: must be set.")
    fields: Document = {
        "oidc": {"issuerUri": _validate_issuer(json_api.require_field(oidc, "issuerUri", f"{path}.oidc"), path)}
    }
    audiences: list[str] = oidc.get("allowedAudiences", [])
    if audiences:
        if len(audiences) > _MAX_AUDIENCES or any(
            not 0 < len(audience) <= _MAX_AUDIENCE_LENGTH for audience in audiences
        ):
            raise invalid(
                f"{path}.oidc.allowed_audiences: at most {_MAX_AUDIENCES}, of 1 to {_MAX_AUDIENCE_LENGTH} "
                "characters each."
            )
        fields["oidc"]["allowedAudiences"] = audiences
    keys: str = oidc.get("jwksJson", "")
    if keys:
        try:
            parse_key_set(keys)
        except ValueError as refusal:
            raise invalid(f"{path}.oidc.jwks_json: not a JSON Web Key Set: {refusal}") from refusal
        fields["oidc"]["jwksJson"] = keys
    fields["attributeMapping"] = _validate_mapping(body.get("attributeMapping", {}), path)
    condition: str = body.get("attributeCondition", "")
    if condition:
        _check_expression(
            condition,
            f"{path}.attribute_condition",
            mapping.MAX_CONDITION_LENGTH,
            frozenset({"assertion", "google", "attribute"}),
        )
        fields["attributeCondition"] = condition
    shared = fields["oidc"]["issuerUri"].rstrip("/") in _SHARED_ISSUERS
    if shared and not re.search(r"\b(?:assertion|google|attribute)\b", condition):
        raise invalid(_CONDITION_REQUIRED)
    return fields


def _validate_issuer(uri: str, path: str) -> str:
    try:
        parts = urlsplit(uri)
        is_absolute = bool(parts.hostname) and not parts.query and not parts.fragment and parts.username is None
    except ValueError:
        is_absolute, parts = False, urlsplit("")
    is_local = parts.scheme == "http" and is_on_this_machine(uri)
    if len(uri) > _MAX_URI_LENGTH or not is_absolute or not (parts.scheme == "https" or is_local):
        raise invalid(
            f"{path}.oidc.issuer_uri: {uri[:200]!r} must be a URI with https:// (here also http:// on this machine) "
            "and without query and fragment."
        )
    return uri


def _validate_mapping(attribute_mapping: dict[str, str], path: str) -> dict[str, str]:
    if not all(attribute_mapping.values()):
        raise invalid(f"{path}.attribute_mapping: no expression may be empty.")
    if "google.subject" not in attribute_mapping:
        raise invalid(f"{path}.attribute_mapping: google.subject must be mapped, for example from assertion.sub.")
    if len(attribute_mapping) > _MAX_ATTRIBUTES:
        raise invalid(f"{path}.attribute_mapping: at most {_MAX_ATTRIBUTES} attributes can be mapped.")
    for key, expression in attribute_mapping.items():
        if mistake := mapping.find_key_mistake(key):
            raise invalid(f"{path}.attribute_mapping: {key!r}: {mistake}.")
        _check_expression(
            expression, f"{path}.attribute_mapping[{key}]", mapping.MAX_EXPRESSION_LENGTH, frozenset({"assertion"})
        )
    return {key: attribute_mapping[key] for key in sorted(attribute_mapping)}


def _check_expression(expression: str, path: str, limit: int, variables: frozenset[str]) -> None:
    if len(expression) > limit:
        raise invalid(f"{path}: cannot exceed {limit} characters.")
    try:
        mapping.check_expression(expression, variables)
    except mapping.ExpressionError as refusal:
        raise invalid(f"{path}: {refusal}.") from refusal
