"""Identity-Aware Proxy in front of a service: who passes, and what the container is told of them.

Programs show an OIDC token whose audience is an OAuth client that the service's settings name; there is nobody here to
sign in a browser. What passes is signed for the container with a key of the proxy's own (ES256), as on Google
(cloud.google.com/iap/docs/signed-headers-howto), whose public half containers find at Google's own address. The proxy
calls Cloud Run as its own account, by `X-Serverless-Authorization`, which the container gets without its signature
(cloud.google.com/iap/docs/enabling-cloud-run): so there it never names the caller.
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
from mcpfleet_local_cloud.identity.tokens import ISSUER, REMOVED, Claims, TokenError
from mcpfleet_local_cloud.network.upstream import Headers
from mcpfleet_local_cloud.services.iap.model import AGENT, Iap, resource_of
from mcpfleet_local_cloud.state.folder import write_private

ACCESS: Final = "iap.webServiceVersions.accessViaIAP"
_ISSUER: Final = "https://cloud.google.com/iap"
_LIFETIME: Final = 600
_ACCOUNTS: Final = "accounts.google.com"
_KID: Final = "local"
OWN_HEADERS: Final = (b"x-goog-iap-", b"x-goog-authenticated-user-")
"""What nobody but the proxy may tell a container."""


@dataclass(frozen=True, kw_only=True)
class Protection:
    """That a service is behind the proxy, and how.

    Attributes:
        resource: whose IAM policy says who may pass.
        agent: the proxy's account, which must be an invoker of the service.
        audiences: OAuth clients for which a program's token may be made.
        assertion_audience: the audience of the assertion that the container gets.
    """

    resource: str
    agent: str
    audiences: frozenset[str]
    assertion_audience: str


class Signer:
    """Signs assertions; *keys_dir* holds the key, which is made at first use."""

    def __init__(self, keys_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        path = keys_dir / "iap-key.pem"
        if not path.exists():
            made = ec.generate_private_key(ec.SECP256R1())
            content = made.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_private(path, content.decode())
        self._key = cast("ec.EllipticCurvePrivateKey", serialization.load_pem_private_key(path.read_bytes(), None))

    def headers(self, claims: Claims, audience: str) -> Headers:
        """What the container is told of whoever passed."""
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
    """What the front door asks (`authorizer.Proxy`).

    Args:
        settings: the OAuth clients.
        signer: signs for the containers.
        number: the project's number.
    """

    def __init__(self, settings: Iap, signer: Signer, number: int) -> None:
        self._settings = settings
        self._signer = signer
        self._number = number

    def protection(self, door: ServiceEndpoint) -> Protection:
        """How the service behind *door* is protected."""
        resource = resource_of(door.service)
        _, _, _, region, _, name = door.service.split("/")
        return Protection(
            resource=resource,
            agent=AGENT.format(self._number),
            audiences=self._settings.audiences(resource),
            assertion_audience=f"/projects/{self._number}/locations/{region}/services/{name}",
        )

    def jwks(self) -> dict[str, Any]:
        """The key that signs assertions."""
        return self._signer.jwks()

    def headers(self, claims: Claims, audience: str) -> Headers:
        """What the container is told of whoever passed."""
        return [*self._signer.headers(claims, audience), (b"x-serverless-authorization", self._own_token())]

    def _own_token(self) -> bytes:
        """The proxy's own token, as Cloud Run passes it on: it is never signed, for no signature would be left."""
        claims = {"iss": ISSUER, "sub": f"1{self._number:020d}", "email": AGENT.format(self._number)}
        parts = [
            json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims | {"email_verified": True})
        ]
        encoded = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
        return b"Bearer " + encoded + b"." + REMOVED.encode()


def shown(headers: Headers) -> tuple[bytes, str]:
    """The header with the caller's token, and the token: `Proxy-Authorization` wins, so that an app can have the other.

    Raises:
        TokenError: there is none.
    """
    for wanted in (b"proxy-authorization", b"authorization"):
        for name, value in headers:
            scheme, _, token = value.decode("latin-1").partition(" ")
            if name == wanted and scheme.lower() == "bearer" and token.strip():
                return name, token.strip()
    raise TokenError("empty token")


def invalid_credentials(why: str) -> pages.Page:
    """IAP's own answer to a token that proves nothing."""
    extra = ((b"x-goog-iap-generated-response", b"true"),)
    return pages.Page(401, f"Invalid IAP credentials: {why}".encode(), pages.HTML, extra)


def no_access(email: str) -> pages.Page:
    """IAP's own answer to somebody who may not pass."""
    body = (
        "<!DOCTYPE html><html lang=en><title>Access denied</title>\n<h1>You don't have access</h1>\n"
        f"<p>{pages.html.escape(email)} has no access to this application. Contact its administrator.</p></html>\n"
    )
    extra = ((b"x-goog-iap-generated-response", b"true"),)
    return pages.Page(403, body.encode(), pages.HTML, extra)


def not_provisioned() -> pages.Page:
    """IAP's own answer where its account may not call the service."""
    text = (
        b"The IAP service account is not provisioned. Please follow the instruction to create service account and "
        b"rectify IAP and Cloud Run setup: https://cloud.google.com/iap/docs/enabling-cloud-run"
    )
    return pages.Page(500, text, pages.HTML, ((b"x-goog-iap-generated-response", b"true"),))
