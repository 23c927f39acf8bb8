"""OAuth 2.0 at `/oauth2/`: users, the token endpoint, and the published keys.

Sources: RFC 6749, RFC 7523, developers.google.com/identity.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.tokens import LIFETIME_SECONDS, Identity, TokenError, jws
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.state.folder import Settings
from mcpfleet_local_cloud.state.store import Document, Store

KIND: Final = "person"
# gcloud's own OAuth client: the audience of the ID tokens that it sends to a Cloud Run service.
CLIENT_ID: Final = "32555940559.apps.googleusercontent.com"
# Not a secret: an installed application cannot keep one (RFC 8252, section 8.5).
CLIENT_SECRET: Final = "an-installed-application-keeps-no-secret"  # noqa: S105
SCOPES: Final = (
    "openid",
    "https://www.googleapis.com/auth/userinfo.email",
    "https://www.googleapis.com/auth/cloud-platform",
)
JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# The audiences that Google's libraries use, whatever endpoint they send the assertion to.
_TOKEN_AUDIENCES: Final = frozenset(
    {
        "https://oauth2.googleapis.com/token",
        "https://www.googleapis.com/oauth2/v4/token",
        "https://accounts.google.com/o/oauth2/token",
    }
)


_INVALID_TIMES: Final = (
    "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. "
    "Check your iat and exp values in the JWT claim."
)


class OAuthError(Exception):
    """An error response of the token endpoint (RFC 6749, section 5.2)."""

    def __init__(self, error: str, description: str, http_code: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.http_code = http_code


class People:
    """The users of this cloud. Only hashes of their refresh tokens are stored."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def exists(self, email: str) -> bool:
        """Whether the user exists."""
        return self._store.get(KIND, email.lower()) is not None

    def issue_refresh_token(self, email: str) -> str:
        """Create the user if necessary and return a new refresh token, which replaces the previous one."""
        token = "1//" + secrets.token_urlsafe(48)
        person = self._store.get(KIND, email) or {
            "email": email,
            "subject": "1" + "".join(secrets.choice("0123456789") for _ in range(20)),
        }
        self._store.put(KIND, email, {**person, "refreshToken": _hash(token)})
        return token

    def find_by_refresh_token(self, token: str) -> Document | None:
        """Return the user `{email, subject}` of the refresh *token*, or None."""
        digest = _hash(token)
        people = (person for _, person in self._store.list(KIND))
        return next(
            (candidate for candidate in people if secrets.compare_digest(candidate["refreshToken"], digest)), None
        )


class TokenEndpoint:
    """Exchanges credentials for tokens."""

    def __init__(
        self,
        *,
        settings: Settings,
        identity: Identity,
        accounts: ServiceAccounts,
        people: People,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._audiences = _TOKEN_AUDIENCES | {f"{settings.url}/oauth2/token"}
        self._identity = identity
        self._accounts = accounts
        self._people = people
        self._clock = clock

    def exchange(self, form: Mapping[str, str]) -> Document:
        """Return the response to one token request.

        Raises:
            OAuthError: the request is refused.
        """
        grant = _require_parameter(form, "grant_type")
        if grant == JWT_BEARER:
            return self._exchange_assertion(_require_parameter(form, "assertion"))
        if grant == "refresh_token":
            return self._exchange_refresh_token(form)
        raise OAuthError("unsupported_grant_type", f"Invalid grant_type: {grant}")

    def _exchange_assertion(self, assertion: str) -> Document:
        claims = self._verify_assertion(assertion)
        account = self._accounts.get(claims["iss"])
        if account is None:
            raise OAuthError("invalid_grant", "Invalid grant: account not found")
        if account.get("disabled"):
            raise OAuthError("invalid_grant", "Invalid grant: account is disabled")
        if claims.get("sub", claims["iss"]) != claims["iss"]:
            raise OAuthError(
                "unauthorized_client",
                "Client is unauthorized to retrieve access tokens using this method, or client not authorized "
                "for any of the scopes requested.",
                401,
            )
        audience, scope = claims.get("target_audience"), claims.get("scope")
        if isinstance(audience, str) and audience:
            minted = self._identity.mint_id_token(
                email=account["email"], subject=account["uniqueId"], audience=audience
            )
            return {"id_token": minted}
        if isinstance(scope, str) and scope.split():
            token, lifetime = self._identity.mint_access_token(email=account["email"], scopes=scope.split())
            return {"access_token": token, "expires_in": lifetime - 1, "token_type": "Bearer"}
        raise OAuthError("invalid_scope", "Invalid OAuth scope or ID token audience provided.")

    def _verify_assertion(self, assertion: str) -> dict[str, Any]:
        try:
            issuer = jws.unverified_claims(assertion).get("iss")
        except TokenError as refusal:
            raise OAuthError("invalid_grant", "Bad Request: the assertion is not a JWT") from refusal
        if not isinstance(issuer, str) or not self._accounts.exists(issuer):
            raise OAuthError("invalid_grant", "Invalid grant: account not found")
        try:
            claims = self._accounts.verify_signed(assertion, self._clock())
        except jws.TokenTimeError as refusal:
            raise OAuthError("invalid_grant", _INVALID_TIMES) from refusal
        except TokenError as refusal:
            raise OAuthError("invalid_grant", "Invalid JWT Signature.") from refusal
        if claims["exp"] - claims["iat"] > LIFETIME_SECONDS + jws.CLOCK_SKEW:
            raise OAuthError("invalid_grant", _INVALID_TIMES)
        if claims.get("aud") not in self._audiences:
            raise OAuthError("invalid_grant", "Invalid JWT: Failed audience check.")
        return claims

    def _exchange_refresh_token(self, form: Mapping[str, str]) -> Document:
        token = _require_parameter(form, "refresh_token")
        client, secret = _require_parameter(form, "client_id"), form.get("client_secret", "")
        if client != CLIENT_ID:
            raise OAuthError("invalid_client", "The OAuth client was not found.", 401)
        if not secrets.compare_digest(secret.encode(), CLIENT_SECRET.encode()):
            raise OAuthError("invalid_client", "The provided client secret is invalid.", 401)
        person = self._people.find_by_refresh_token(token)
        if person is None:
            raise OAuthError("invalid_grant", "Token has been expired or revoked.")
        scopes = form.get("scope", "").split() or list(SCOPES)
        if not set(scopes) <= set(SCOPES):
            raise OAuthError("invalid_scope", "Some requested scopes were not granted to this credential.")
        access, lifetime = self._identity.mint_access_token(email=person["email"], scopes=scopes)
        identity = self._identity.mint_id_token(email=person["email"], subject=person["subject"], audience=CLIENT_ID)
        return {
            "access_token": access,
            "expires_in": lifetime - 1,
            "scope": " ".join(scopes),
            "token_type": "Bearer",
            "id_token": identity,
        }


def _require_parameter(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise OAuthError("invalid_request", f"Missing required parameter: {name}")
    return value


def _hash(token: str) -> str:
    # The token has 384 random bits, so a plain hash cannot be reversed by guessing.
    return hashlib.sha256(token.encode()).hexdigest()


def routes(endpoint: TokenEndpoint, identity: Identity) -> list[BaseRoute]:
    """The endpoints' routes."""

    async def token(request: Request) -> Response:
        # RFC 6749 sends a form, and nothing else; a parameter may not be repeated (section 3.2).
        pairs = parse_qsl((await request.body()).decode(errors="replace"))
        try:
            if len({name for name, _ in pairs}) != len(pairs):
                raise OAuthError("invalid_request", "A parameter is repeated.")
            tokens = endpoint.exchange(dict(pairs))
        except OAuthError as refusal:
            body = {"error": refusal.error, "error_description": refusal.description}
            return JSONResponse(body, status_code=refusal.http_code)
        return JSONResponse(tokens, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

    async def certs(_request: Request) -> Response:
        return JSONResponse(identity.jwks(), headers={"Cache-Control": "public, max-age=300"})

    return [
        Route("/oauth2/token", token, methods=["POST"]),
        Route("/oauth2/v3/certs", certs, methods=["GET"]),
    ]
