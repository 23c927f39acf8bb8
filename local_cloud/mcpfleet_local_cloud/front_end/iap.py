"""Identity-Aware Proxy in front of a service: checks callers, and signs their identity for the container.

Programs send an OIDC token whose audience is an OAuth client in the service's settings; there is no browser sign-in
here. The proxy signs the caller's identity for the container with a key of its own (ES256), as on Google
(cloud.google.com/iap/docs/signed-headers-howto); containers get the public key at Google's own address. The proxy calls
Cloud Run as its own account, by `X-Serverless-Authorization`, which the container gets without its signature
(cloud.google.com/iap/docs/enabling-cloud-run): so that header never identifies the caller.
"""

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from mcpfleet_local_cloud.data_plane.contract import ServiceEndpoint
from mcpfleet_local_cloud.front_end import pages
from mcpfleet_local_cloud.identity.tokens import ISSUER, REMOVED_SIGNATURE, Claims, TokenError
from mcpfleet_local_cloud.network.upstream import Headers
from mcpfleet_local_cloud.services.iap.model import AGENT, Iap, resource_of
from mcpfleet_local_cloud.state.folder import write_private

ACCESS: Final = "iap.webServiceVersions.accessViaIAP"
_ISSUER: Final = "https://cloud.google.com/iap"
_LIFETIME: Final = 600
_ACCOUNTS: Final = "accounts.google.com"
_KID: Final = "local"
OWN_HEADERS: Final = (b"x-goog-iap-", b"x-goog-authenticated-user-")
"""Prefixes of headers that only the proxy may send to a container."""


@dataclass(frozen=True, kw_only=True)
class Protection:
    """The settings of the proxy for one service.

    Attributes:
        resource: The resource whose IAM policy decides who has access.
        agent: The proxy's account, which must be an invoker of the service.
        audiences: The OAuth clients that are accepted as audience of a program's token.
        assertion_audience: The audience of the assertion for the container.
    """

    resource: str
    agent: str
    audiences: frozenset[str]
    assertion_audience: str


class Signer:
    """Signs assertions with a key in *keys_dir*, which is created at first use."""

    def __init__(self, keys_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        path = keys_dir / "iap-key.pem"
        if not path.exists():
            new_key = ec.generate_private_key(ec.SECP256R1())
            content = new_key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(path, content.decode())
        self._key = cast("ec.EllipticCurvePrivateKey", serialization.load_pem_private_key(path.read_bytes(), None))

    def headers(self, claims: Claims, audience: str) -> Headers:
        """The headers that describe an admitted caller to the container."""
        now = int(self._clock())
        assertion = jwt.encode(
            {
                "iss": _ISSUER,
                "sub": f"{_ACCOUNTS}:{claims.subject}",
                "email": claims.email,
                "aud": audience,
                "iat": now,
                "exp": now + _LIFETIME,
                "hd": claims.email.partition("@")[2],
            },
            self._key,
            algorithm="ES256",
            headers={"kid": _KID},
        )
        return [
            (b"x-goog-iap-jwt-assertion", assertion.encode()),
            (b"x-goog-authenticated-user-email", f"{_ACCOUNTS}:{claims.email}".encode()),
            (b"x-goog-authenticated-user-id", f"{_ACCOUNTS}:{claims.subject}".encode()),
        ]

    def jwks(self) -> dict[str, Any]:
        """The public key, as Google publishes its own at https://www.gstatic.com/iap/verify/public_key-jwk."""
        key = ECAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        return {"keys": [{**key, "alg": "ES256", "use": "sig", "kid": _KID}]}


class IdentityAwareProxy:
    """Implements `authorizer.Proxy`.

    Args:
        settings: The settings with the OAuth clients.
        signer: Signs the assertions for containers.
        number: The project's number.
    """

    def __init__(self, settings: Iap, signer: Signer, number: int) -> None:
        self._settings = settings
        self._signer = signer
        self._number = number

    def protection(self, endpoint: ServiceEndpoint) -> Protection:
        """The protection of the service at *endpoint*."""
        resource = resource_of(endpoint.service)
        _, _, _, region, _, name = endpoint.service.split("/")
        return Protection(
            resource=resource,
            agent=AGENT.format(self._number),
            audiences=self._settings.audiences(resource),
            assertion_audience=f"/projects/{self._number}/locations/{region}/services/{name}",
        )

    def jwks(self) -> dict[str, Any]:
        """The public key of the assertions, as a JSON Web Key Set."""
        return self._signer.jwks()

    def headers(self, claims: Claims, audience: str) -> Headers:
        """The headers that describe an admitted caller to the container."""
        return [*self._signer.headers(claims, audience), (b"x-serverless-authorization", self._own_token())]

    def _own_token(self) -> bytes:
        """The proxy's own token, as the container gets it: without a signature, so it is never signed."""
        claims = {"iss": ISSUER, "sub": f"1{self._number:020d}", "email": AGENT.format(self._number)}
        parts = [
            json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims | {"email_verified": True})
        ]
        encoded = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        return b"Bearer " + encoded + b"." + REMOVED_SIGNATURE.encode()


def find_token(headers: Headers) -> tuple[bytes, str]:
    """Find the header with the caller's token, and the token.

    `Proxy-Authorization` takes precedence, so that the app can use `Authorization`.

    Raises:
        TokenError: There is no token.
    """
    for header in (b"proxy-authorization", b"authorization"):
        for name, value in headers:
            scheme, _, token = value.decode("latin-1").partition(" ")
            if name == header and scheme.lower() == "bearer" and token.strip():
                return name, token.strip()
    raise TokenError("empty token")


def invalid_credentials(reason: str) -> pages.Page:
    """IAP's response to an invalid token."""
    extra = ((b"x-goog-iap-generated-response", b"true"),)
    return pages.Page(401, f"Invalid IAP credentials: {reason}".encode(), pages.HTML, extra)


def no_access(email: str) -> pages.Page:
    """IAP's response to a caller without access."""
    body = (
        "<!DOCTYPE html><html lang=en><title>Access denied</title>\n<h1>You don't have access</h1>\n"
        f"<p>{pages.html.escape(email)} has no access to this application. Contact its administrator.</p></html>\n"
    )
    extra = ((b"x-goog-iap-generated-response", b"true"),)
    return pages.Page(403, body.encode(), pages.HTML, extra)


def not_provisioned() -> pages.Page:
    """IAP's response if its own account may not call the service."""
    text = (
        b"The IAP service account is not provisioned. Please follow the instruction to create service account and "
        b"rectify IAP and Cloud Run setup: https://cloud.google.com/iap/docs/enabling-cloud-run"
    )
    return pages.Page(500, text, pages.HTML, ((b"x-goog-iap-generated-response", b"true"),))
