"""Signed assertions and public keys of Identity-Aware Proxy, for tests."""

import json
import time

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

AUDIENCE = "/projects/481516234200/locations/europe-west1/services/mcp-shop"
LIFE = 24 * 3600
"""Seconds: longer than the whole suite, for some are made when a file is read and used when its tests run."""
HEADER = b"x-goog-iap-jwt-assertion"
KEY = ec.generate_private_key(ec.SECP256R1())
OTHER = ec.generate_private_key(ec.SECP256R1())


def published(key=KEY, kid="one") -> bytes:
    """The keys that Google publishes."""
    member = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    return json.dumps({"keys": [{**member, "kid": kid, "alg": "ES256", "use": "sig"}]}).encode()


def assertion(key=KEY, kid="one", algorithm="ES256", now=None, **claims) -> str:
    """Return an assertion of the proxy about Ada; a claim that is None is left out."""
    now = int(time.time() if now is None else now)
    members = {
        "iss": "https://cloud.google.com/iap",
        "aud": AUDIENCE,
        "sub": "accounts.google.com:1001",
        "email": "ada@mcpfleet.test",
        "iat": now,
        "exp": now + LIFE,
        **claims,
    }
    members = {name: value for name, value in members.items() if value is not None}
    return jwt.encode(members, key, algorithm=algorithm, headers={} if kid is None else {"kid": kid})


def asserted(text: str) -> list[tuple[bytes, bytes]]:
    return [(HEADER, text.encode())]
