"""The cloud's own signature: ID tokens and access tokens, and the public key that checks them.

One RSA key per cloud lies in a file of mode 0600 in its state, so a restart leaves every token valid. Google's access
tokens are opaque (`ya29.…`); ours carry their own signature, so that no list of them is kept. An access token is never
an ID token and the other way round: their issuers differ.
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
REMOVED: Final = "SIGNATURE_REMOVED_BY_GOOGLE"
"""What the front end puts in the place of a signature (cloud.google.com/run/docs/troubleshooting#signature-removed)."""
_ACCESS_ISSUER: Final = "https://oauth2.mcpfleet.test/access-token"
_ACCESS_PREFIX: Final = "ya29."
LIFETIME: Final = 3600


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a verified ID token says."""

    email: str
    """The caller; empty where the token was made without (`includeEmail: false`)."""
    subject: str
    audience: str
    expires: int
    """Seconds since the epoch."""
    raw: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class AccessToken:
    """What a verified access token says."""

    email: str
    """The principal; a `Principal` where it is federated."""
    scopes: frozenset[str]
    expires: int


class Identity:
    """Makes and checks the cloud's tokens.

    Args:
        keys_dir: where the key lies; made at first use.
        clock: seconds since the epoch.
    """

    def __init__(self, keys_dir: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._key = _load_or_make(keys_dir / "signing-key.pem")
        self._public = self._key.public_key()
        self._kid = key_name(self._public)

    def mint_id_token(
        self,
        *,
        email: str,
        subject: str,
        audience: str,
        lifetime: int = LIFETIME,
        include_email: bool = True,
    ) -> str:
        """An ID token of Google's shape for *audience*, valid for *lifetime* seconds."""
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
        """The token's claims: signature, key, issuer and times are checked, the audience is not.

        Raises:
            TokenError: not one of ours, or not valid now.
        """
        raw = self._verified(token, ISSUER)
        audience, subject, email = raw.get("aud"), raw.get("sub"), raw.get("email", "")
        if not isinstance(audience, str) or not isinstance(subject, str) or not isinstance(email, str):
            raise TokenError("a claim is not a string")
        # An e-mail address that its provider has not verified proves nothing.
        verified = email if raw.get("email_verified") is True else ""
        return Claims(email=verified, subject=subject, audience=audience, expires=int(raw["exp"]), raw=raw)

    def mint_access_token(self, *, email: str, scopes: Sequence[str], lifetime: int = LIFETIME) -> tuple[str, int]:
        """An access token and the seconds that it is valid; *email* may be a federated `Principal`."""
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

    def access_token(self, token: str) -> AccessToken:
        """What the access token *token* allows.

        Raises:
            TokenError: not one of ours, or not valid now.
        """
        if not token.startswith(_ACCESS_PREFIX):
            raise TokenError("not an access token")
        raw = self._verified(token.removeprefix(_ACCESS_PREFIX), _ACCESS_ISSUER)
        email = Principal(str(raw["email"]), raw["sets"]) if "sets" in raw else str(raw["email"])
        return AccessToken(email=email, scopes=frozenset(str(raw["scope"]).split()), expires=int(raw["exp"]))

    def verify_access_token(self, token: str) -> str:
        """The e-mail of the principal that *token* was made for.

        Raises:
            TokenError: not one of ours, or not valid now.
        """
        return self.access_token(token).email

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

    def _verified(self, token: str, issuer: str) -> dict[str, Any]:
        if jws.key_id(token) != self._kid:
            raise TokenError("the token was signed with a key that this cloud does not have")
        claims = jws.verify(token, self._public, now=self._clock())
        if claims.get("iss") != issuer:
            raise TokenError(f"the token's issuer is not {issuer}")
        return claims


def new_key() -> rsa.RSAPrivateKey:
    """A new RSA key of Google's size for service accounts, 2048 bits; takes about 100 ms."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def private_pem(key: rsa.RSAPrivateKey) -> str:
    """The key as Google's credential files hold it: PKCS #8, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_pem(key: rsa.RSAPublicKey) -> str:
    """The public key as PEM."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def key_name(key: rsa.RSAPublicKey) -> str:
    """40 hexadecimal digits that name the key, as Google's key ids look; the same key has the same name."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:40]


def _load_or_make(path: Path) -> rsa.RSAPrivateKey:
    if path.exists():
        return cast("rsa.RSAPrivateKey", serialization.load_pem_private_key(path.read_bytes(), password=None))
    key = new_key()
    write_private(path, private_pem(key))
    return key


def _base64url(number: int) -> str:
    content = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
