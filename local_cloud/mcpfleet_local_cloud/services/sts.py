"""Security Token Service v1 at `/sts/v1/token`: an external ID token becomes an access token (RFC 8693).

Source: docs.cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token. Error texts are Google's where they are
known. Only the log has the reason why a signature or a key is invalid.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity import external, mapping
from mcpfleet_local_cloud.identity.jws import TokenError, TokenTimeError
from mcpfleet_local_cloud.identity.principals import federated_principal
from mcpfleet_local_cloud.identity.tokens import LIFETIME_SECONDS, Identity
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.iam.pools import Pools
from mcpfleet_local_cloud.services.oauth import OAuthError
from mcpfleet_local_cloud.state.store import Document

API: Final = "sts.googleapis.com"
_GRANT_TYPE: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS_TOKEN_TYPE: Final = "urn:ietf:params:oauth:token-type:access_token"  # noqa: S105 - a type, no secret
_SUBJECT_TOKEN_TYPES: Final = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")
_PARAMETERS: Final = (
    "grant_type",
    "audience",
    "scope",
    "requested_token_type",
    "subject_token",
    "subject_token_type",
    "options",
)
_AUDIENCE: Final = re.compile(
    r"//iam\.googleapis\.com/(?P<provider>projects/(?P<project>[^/]+)/locations/global/workloadIdentityPools/[^/]+"
    r"/providers/[^/]+)"
)
_INVALID_AUDIENCE: Final = (
    'Invalid value for "audience". This value should be the full resource name of the Identity Provider. See '
    "https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats."
)
_INVALID_TARGET: Final = (
    'The target service indicated by the "audience" parameters is invalid. This might either be because the pool or '
    "provider is disabled or deleted or because it doesn't exist."
)
_log = logging.getLogger(__name__)


class TokenExchange:
    """Exchanges external ID tokens for access tokens.

    Args:
        pools: finds identity providers.
        issuers: fetches the keys of issuers whose provider contains none.
        identity: signs access tokens.
        clock: seconds since the epoch.
    """

    def __init__(
        self, pools: Pools, issuers: external.IssuerKeys, identity: Identity, clock: Callable[[], float] = time.time
    ) -> None:
        self._pools = pools
        self._issuers = issuers
        self._identity = identity
        self._clock = clock

    async def exchange(self, form: Mapping[str, str], require_api: Callable[[str], None]) -> Document:
        """Return the response to one request.

        Args:
            form: the parameters of the request.
            require_api: raises `GoogleError` for a project that has not enabled the API.

        Raises:
            OAuthError: the request is refused.
            GoogleError: raised by *require_api*.
        """
        provider = self._find_provider(form, require_api)
        token, name = form["subject_token"], provider["name"]
        claims = await self._verify_token(token, provider)
        try:
            mapped = mapping.map_attributes(provider["attributeMapping"], claims)
            mapping.check_condition(provider.get("attributeCondition", ""), claims, mapped)
        except mapping.MappingError as refusal:
            raise OAuthError("invalid_request", str(refusal)) from refusal
        except mapping.ConditionError as refusal:
            _log.info("%s refuses %s: %s", name, claims.get("sub"), refusal.__cause__ or "its condition is false")
            raise OAuthError(
                "unauthorized_client", "The given credential is rejected by the attribute condition."
            ) from refusal
        principal = federated_principal(
            name.partition("/providers/")[0], mapped.subject, mapped.groups, mapped.attributes
        )
        lifetime = min(LIFETIME_SECONDS, claims["exp"] - int(self._clock()))
        access, seconds = self._identity.mint_access_token(
            email=principal, scopes=form["scope"].split(), lifetime=lifetime
        )
        return {
            "access_token": access,
            "issued_token_type": _ACCESS_TOKEN_TYPE,
            "token_type": "Bearer",
            "expires_in": seconds,
        }

    def _find_provider(self, form: Mapping[str, str], require_api: Callable[[str], None]) -> Document:
        for name in form.keys() - set(_PARAMETERS):
            raise OAuthError("invalid_request", f"The local cloud does not support the parameter {name[:100]}.")
        for name in ("grant_type", "requested_token_type", "subject_token", "subject_token_type", "audience", "scope"):
            if not form.get(name, "").strip():
                raise OAuthError("invalid_request", f"Missing required parameter: {name}")
        if form["grant_type"] != _GRANT_TYPE:
            raise OAuthError("unsupported_grant_type", f'Invalid value for "grant_type": use {_GRANT_TYPE}.')
        if form["requested_token_type"] != _ACCESS_TOKEN_TYPE:
            raise OAuthError("invalid_request", f'Invalid value for "requested_token_type": use {_ACCESS_TOKEN_TYPE}.')
        if form["subject_token_type"] not in _SUBJECT_TOKEN_TYPES:
            raise OAuthError(
                "invalid_request", f'Invalid value for "subject_token_type": use {" or ".join(_SUBJECT_TOKEN_TYPES)}.'
            )
        if form.get("options") and _unsupported_options(form["options"]):
            raise OAuthError("invalid_request", "The local cloud supports no options but userProject.")
        match = _AUDIENCE.fullmatch(form["audience"])
        if match is None:
            raise OAuthError("invalid_request", _INVALID_AUDIENCE)
        provider = self._pools.find_active_provider(match["provider"])
        if provider is None:
            raise OAuthError("invalid_target", _INVALID_TARGET)
        require_api(match["project"])
        return provider

    async def _verify_token(self, token: str, provider: Document) -> dict[str, Any]:
        oidc: Document = provider["oidc"]
        try:
            unverified_claims = external.unverified_claims(token)
        except TokenError as refusal:
            raise OAuthError("invalid_request", "Unable to parse the ID Token.") from refusal
        # Cheap checks first: keys are fetched only for a token that names this issuer and this provider.
        if unverified_claims.get("iss") != oidc["issuerUri"]:
            raise OAuthError(
                "invalid_grant",
                f"The issuer in ID Token {unverified_claims.get('iss')} does not match the expected ones.",
            )
        audiences = unverified_claims.get("aud")
        audience_list = json_api.as_list(audiences) or [audiences]
        canonical = [f"//iam.googleapis.com/{provider['name']}", f"https://iam.googleapis.com/{provider['name']}"]
        if not any(audience in oidc.get("allowedAudiences", canonical) for audience in audience_list):
            displayed = ", ".join(map(str, audience_list))
            raise OAuthError(
                "invalid_grant", f"The audience in ID Token [{displayed}] does not match the expected audience."
            )
        try:
            keys = (
                external.parse_key_set(oidc["jwksJson"])
                if "jwksJson" in oidc
                else await self._issuers.fetch_keys(oidc["issuerUri"])
            )
            claims = external.verify(token, keys, self._clock())
        except external.IssuerError as refusal:
            _log.warning("%s: cannot fetch the keys of %s: %s", provider["name"], oidc["issuerUri"], refusal)
            raise OAuthError("invalid_grant", "Error connecting to the given credential's issuer.") from refusal
        except TokenTimeError as refusal:
            raise OAuthError(
                "invalid_grant", f"ID Token issued at {unverified_claims.get('iat')} is stale to sign-in."
            ) from refusal
        except TokenError as refusal:
            _log.info("%s refuses a token: %s", provider["name"], refusal)
            raise OAuthError("invalid_grant", "Invalid JWT Signature.") from refusal
        if not isinstance(claims.get("sub"), str):
            raise OAuthError("invalid_grant", "The ID Token has no subject.")
        return claims


def _unsupported_options(text: str) -> set[str]:
    """The names of options that are not supported."""
    try:
        options = json_api.as_object(json_api.parse_strict_json(unquote(text).encode()))
    except (ValueError, RecursionError):
        options = None
    if options is None:
        raise OAuthError("invalid_request", 'Invalid value for "options": not a JSON object.')
    return options.keys() - {"userProject"}


def routes(exchange: TokenExchange, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's route."""

    async def token(request: Request) -> Response:
        try:
            form = _parse_form(await request.body(), request.headers.get("content-type", ""))
            tokens = await exchange.exchange(form, lambda project: authorizer.require_api(project, API))
        except OAuthError as refusal:
            body = {"error": refusal.error, "error_description": refusal.description}
            return JSONResponse(body, status_code=refusal.http_code)
        return JSONResponse(tokens, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

    return [Route("/sts/v1/token", token, methods=["POST"])]


def _parse_form(body: bytes, content_type: str) -> dict[str, str]:
    """Parse the parameters from a form (RFC 8693), or from JSON with either spelling (as the API also allows)."""
    if content_type.partition(";")[0].strip().lower() != "application/json":
        pairs = parse_qsl(body.decode(errors="replace"))
    else:
        fields = json_api.as_object(json_api.parse_json(body)) or {}
        if not all(isinstance(value, str) for value in fields.values()):
            raise OAuthError("invalid_request", "A parameter is not a string.")
        pairs = [
            (re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", name), value) for name, value in fields.items()
        ]
    if len({name for name, _ in pairs}) != len(pairs):
        raise OAuthError("invalid_request", "A parameter is repeated.")
    return dict(pairs)
