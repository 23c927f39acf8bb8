"""ID tokens as a container receives them from Cloud Run's front end."""

import base64
import json

GOOGLE = {"iss": "https://accounts.google.com"}
ADA = {**GOOGLE, "sub": "1001", "email": "ada@mcpfleet.test", "email_verified": True}
BOB = {**GOOGLE, "sub": "1002", "email": "bob@mcpfleet.test", "email_verified": True}


def id_token(claims: object, signature: str = "SIGNATURE_REMOVED_BY_GOOGLE") -> str:
    """An ID token whose signature the front end has taken off."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "RS256", "typ": "JWT"}, claims)
    ]
    return ".".join([*parts, signature])
