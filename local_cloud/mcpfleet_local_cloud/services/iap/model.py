"""Settings of Identity-Aware Proxy for Cloud Run services: OAuth clients, by the resource that they hold for.

A resource is `projects/P/iap_web/cloud_run-REGION/services/S`; its IAM policy says who may pass.
"""

import hashlib
from typing import Final, Protocol

from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "iapSettings"
KEYS_HOST: Final = "www.gstatic.com"
KEYS_PATH: Final = "/iap/verify/public_key-jwk"
"""Where Google publishes the proxy's public keys (cloud.google.com/iap/docs/signed-headers-howto)."""
AGENT: Final = "service-{}@gcp-sa-iap.iam.gserviceaccount.com"
"""Identity-Aware Proxy's own account, with the project's number; it calls the service."""


class Keys(Protocol):
    """What has the proxy's keys."""

    def jwks(self) -> Document:
        """The public keys as a JSON Web Key Set."""
        ...


class Iap:
    """The settings."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, resource: str) -> Document:
        """The settings of *resource*; empty where nobody set any. The client's secret is never shown."""
        found = self._store.get(KIND, resource) or {}
        oauth = {key: value for key, value in found.items() if key != "clientSecret" and value}
        shown: Document = {"name": resource}
        return {**shown, "accessSettings": {"oauthSettings": oauth}} if oauth else shown

    def update(self, resource: str, body: Document) -> Document:
        """Replace the settings by *body*."""
        oauth: Document = body.get("accessSettings", {}).get("oauthSettings", {})
        # Of the client's secret only its digest is kept: nothing here ever shows it to an OAuth server.
        secret = str(oauth.get("clientSecret") or "")
        digest = {"clientSecretSha256": hashlib.sha256(secret.encode()).hexdigest()} if secret else {}
        kept = {key: value for key, value in oauth.items() if key != "clientSecret" and value}
        if kept or digest:
            self._store.put(KIND, resource, {**kept, **digest})
        else:
            self._store.delete(KIND, resource)
        return self.get(resource)

    def audiences(self, resource: str) -> frozenset[str]:
        """The OAuth clients for which a token may be made, to pass *resource* by a program."""
        found = self._store.get(KIND, resource) or {}
        return frozenset(
            [*found.get("programmaticClients", []), *([found["clientId"]] if found.get("clientId") else [])]
        )


def resource_of(service: str) -> str:
    """The resource of a Cloud Run service, whose full name is *service*."""
    _, project, _, region, _, name = service.split("/")
    return f"projects/{project}/iap_web/cloud_run-{region}/services/{name}"
