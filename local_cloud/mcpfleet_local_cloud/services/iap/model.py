"""Settings of Identity-Aware Proxy for Cloud Run services: OAuth clients, by resource.

A resource is `projects/P/iap_web/cloud_run-REGION/services/S`. Its IAM policy lists the members who may pass.
"""

import hashlib
from typing import Final, Protocol

from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "iapSettings"
KEYS_HOST: Final = "www.gstatic.com"
KEYS_PATH: Final = "/iap/verify/public_key-jwk"
"""Where Google publishes the proxy's public keys (cloud.google.com/iap/docs/signed-headers-howto)."""
AGENT: Final = "service-{}@gcp-sa-iap.iam.gserviceaccount.com"
"""The account with which Identity-Aware Proxy calls the service; it contains the project's number."""


class Keys(Protocol):
    """Provides the proxy's keys."""

    def jwks(self) -> Document:
        """The public keys as a JSON Web Key Set."""
        ...


class Iap:
    """The settings of all resources."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, resource: str) -> Document:
        """Return the settings of *resource*, empty if there are none. The client's secret is never returned."""
        settings = self._store.get(KIND, resource) or {}
        oauth = {key: value for key, value in settings.items() if key != "clientSecret" and value}
        document: Document = {"name": resource}
        return {**document, "accessSettings": {"oauthSettings": oauth}} if oauth else document

    def update(self, resource: str, body: Document) -> Document:
        """Replace the settings by *body*."""
        oauth: Document = body.get("accessSettings", {}).get("oauthSettings", {})
        # Only a digest of the client's secret is stored: no OAuth server here ever needs the secret.
        secret = str(oauth.get("clientSecret") or "")
        digest = {"clientSecretSha256": hashlib.sha256(secret.encode()).hexdigest()} if secret else {}
        fields = {key: value for key, value in oauth.items() if key != "clientSecret" and value}
        if fields or digest:
            self._store.put(KIND, resource, {**fields, **digest})
        else:
            self._store.delete(KIND, resource)
        return self.get(resource)

    def audiences(self, resource: str) -> frozenset[str]:
        """The OAuth clients that a program's token may have as its audience to reach *resource*."""
        settings = self._store.get(KIND, resource) or {}
        return frozenset(
            [*settings.get("programmaticClients", []), *([settings["clientId"]] if settings.get("clientId") else [])]
        )


def resource_of(service: str) -> str:
    """The resource of the Cloud Run service with the full name *service*."""
    _, project, _, region, _, name = service.split("/")
    return f"projects/{project}/iap_web/cloud_run-{region}/services/{name}"
