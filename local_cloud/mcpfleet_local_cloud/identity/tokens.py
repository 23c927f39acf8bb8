"""Signs and verifies the cloud's ID tokens and access tokens, and publishes the public key.

Each cloud has one RSA key, in a file with mode 0600 in its state, so that tokens stay valid after a restart. Google's
access tokens are opaque (`ya29.…`); the local cloud's are signed, so that it stores no list of them. An access token is
never valid as an ID token or vice versa: their issuers differ.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mcpfleet_local_cloud.identity import jws
from mcpfleet_local_cloud.identity.jws import TokenError
from mcpfleet_local_cloud.identity.principals import Principal
from mcpfleet_local_cloud.state.folder import write_private

__all__ = ["ISSUER", "AccessToken", "Claims", "Identity", "TokenError", "new_key"]

ISSUER: Final = "https://accounts.google.com"
REMOVED_SIGNATURE: Final = "SIGNATURE_REMOVED_BY_GOOGLE"
"""Replaces a token's signature at the front end (cloud.google.com/run/docs/troubleshooting#signature-removed)."""
_ACCESS_ISSUER: Final = "https://oauth2.mcpfleet.test/access-token"
_ACCESS_PREFIX: Final = "ya29."
LIFETIME_SECONDS: Final = 3600


@dataclass(frozen=True, kw_only=True)
class Claims:
    """The claims of a verified ID token."""

    email: str
    """The caller's email; empty if the token has none (`includeEmail: false`)."""
    subject: str
    audience: str
    expires: int
    """Seconds since the epoch."""
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AccessToken:
    """The content of a verified access token."""

    email: str
    """The caller's email, or a `Principal` for a federated identity."""
    scopes: frozenset[str]
    expires: int


class Identity:
    """Creates and verifies the cloud's tokens.

    Args:
        keys_dir: the folder of the key, which is created at first use.
        clock: seconds since the epoch.
    """

    def __init__(self, keys_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._key = _load_or_create_key(keys_dir / "signing-key.pem")
        self._public = self._key.public_key()
        self._kid = key_id(self._public)

    def mint_id_token(
        self,
        *,
        email: str,
        subject: str,
        audience: str,
        lifetime: int = LIFETIME_SECONDS,
        include_email: bool = True,
    ) -> str:
        """Create an ID token in Google's format for *audience*, valid for *lifetime* seconds."""
        now = int(self._clock())
        claims: dict[str, Any] = {
            "iss": ISSUER,
            "azp": subject,
            "aud": audience,
            "sub": subject,
            "iat": now,
            "exp": now + lifetime,
        }
        if include_email:
            claims |= {"email": email, "email_verified": True}
        return jws.sign(claims, self._key, self._kid)

    def verify_id_token(self, token: str) -> Claims:
        """Verify a token's signature, key, issuer and times, but not its audience; returns the claims.

        Raises:
            TokenError: the token is not from this cloud, or not valid now.
        """
        raw = self._verify(token, ISSUER)
        audience, subject, email = raw.get("aud"), raw.get("sub"), raw.get("email", "")
        if not isinstance(audience, str) or not isinstance(subject, str) or not isinstance(email, str):
            raise TokenError("a claim is not a string")
        # An unverified email address proves nothing.
        verified = email if raw.get("email_verified") is True else ""
        return Claims(email=verified, subject=subject, audience=audience, expires=int(raw["exp"]), raw=raw)

    def mint_access_token(
        self, *, email: str, scopes: Sequence[str], lifetime: int = LIFETIME_SECONDS
    ) -> tuple[str, int]:
        """Create an access token; returns it and its lifetime in seconds. *email* may be a federated `Principal`."""
        now = int(self._clock())
        claims: dict[str, Any] = {
            "iss": _ACCESS_ISSUER,
            "email": email,
            "scope": " ".join(scopes),
            "iat": now,
            "exp": now + lifetime,
        }
        if isinstance(email, Principal):
            claims["sets"] = sorted(email.sets)
        return _ACCESS_PREFIX + jws.sign(claims, self._key, self._kid), lifetime

    def decode_access_token(self, token: str) -> AccessToken:
        """Verify an access token; returns its content.

        Raises:
            TokenError: the token is not from this cloud, or not valid now.
        """
        if not token.startswith(_ACCESS_PREFIX):
            raise TokenError("not an access token")
        raw = self._verify(token.removeprefix(_ACCESS_PREFIX), _ACCESS_ISSUER)
        email = Principal(str(raw["email"]), raw["sets"]) if "sets" in raw else str(raw["email"])
        return AccessToken(email=email, scopes=frozenset(str(raw["scope"]).split()), expires=int(raw["exp"]))

    def verify_access_token(self, token: str) -> str:
        """Verify an access token; returns the caller's email, or a federated `Principal`.

        Raises:
            TokenError: the token is not from this cloud, or not valid now.
        """
        return self.decode_access_token(token).email

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set (RFC 7517), as Google publishes its own at /oauth2/v3/certs."""
        numbers = self._public.public_numbers()
        key = {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": self._kid,
            "n": _base64url(numbers.n),
            "e": _base64url(numbers.e),
        }
        return {"keys": [key]}

    def _verify(self, token: str, issuer: str) -> dict[str, Any]:
        if jws.read_key_id(token) != self._kid:
            raise TokenError("the token was signed with a key that this cloud does not have")
        claims = jws.verify(token, self._public, now=self._clock())
        if claims.get("iss") != issuer:
            raise TokenError(f"the token's issuer is not {issuer}")
        return claims


def new_key() -> rsa.RSAPrivateKey:
    """Generate an RSA key with 2048 bits, as Google does for service accounts; takes about 100 ms."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: rsa.RSAPrivateKey) -> str:
    """The key in the format of Google's credentials files: PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(key: rsa.RSAPublicKey) -> str:
    """The public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def key_id(key: rsa.RSAPublicKey) -> str:
    """The id of the key: 40 hexadecimal digits, as in Google's key ids, derived from the key."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:40]


def _load_or_create_key(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        return cast("rsa.RSAPrivateKey", serialization.load_pem_private_key(path.read_bytes(), password=None))
    key = new_key()
    write_private(path, private_pem(key))
    return key


def _base64url(number: int) -> str:
    content = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
