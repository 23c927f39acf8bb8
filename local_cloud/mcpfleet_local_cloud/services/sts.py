"""Security Token Service v1 at `/sts/v1/token`: an external ID token becomes an access token (RFC 8693).

docs.cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token. The sentences of refusals are Google's where they
are known; why a signature or a key does not hold stands in the log alone.
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
from mcpfleet_local_cloud.identity.principals import federated
from mcpfleet_local_cloud.identity.tokens import LIFETIME, Identity
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.iam.pools import Pools
from mcpfleet_local_cloud.services.oauth import OAuthError
from mcpfleet_local_cloud.state.store import Document

API: Final = "sts.googleapis.com"
_GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS: Final = "urn:ietf:params:oauth:token-type:access_token"
_SUBJECTS: Final = ("urn:ietf:params:oauth:token-type:jwt", "urn:ietf:params:oauth:token-type:id_token")
_KNOWN: Final = (
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
_BAD_AUDIENCE: Final = (
    'Invalid value for "audience". This value should be the full resource name of the Identity Provider. See '
    "https://cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token for the list of possible formats."
)
_NO_TARGET: Final = (
    'The target service indicated by the "audience" parameters is invalid. This might either be because the pool or '
    "provider is disabled or deleted or because it doesn't exist."
)
_log = logging.getLogger(__name__)


class TokenExchange:
    """Exchanges tokens.

    Args:
        pools: knows providers.
        issuers: has the keys of those whose provider holds none.
        identity: signs.
        clock: seconds since the epoch.
    """

    def __init__(
        self, pools: Pools, issuers: external.Issuers, identity: Identity, clock: Callable[[], float] = time.time
    ) -> None:
        self._pools = pools
        self._issuers = issuers
        self._identity = identity
        self._clock = clock

    async def exchange(self, form: Mapping[str, str], admit: Callable[[str], None]) -> Document:
        """The answer to one request.

        Args:
            form: its parameters.
            admit: refuses a project that may not use the API.

        Raises:
            OAuthError: refused.
            GoogleError: by *admit*.
        """
        provider = self._provider(form, admit)
        token, name = form["subject_token"], provider["name"]
        claims = await self._verified(token, provider)
        try:
            found = mapping.mapped(provider["attributeMapping"], claims)
            mapping.require(provider.get("attributeCondition", ""), claims, found)
        except mapping.MappingError as refusal:
            raise OAuthError("invalid_request", str(refusal)) from refusal
        except mapping.ConditionError as refusal:
            _log.info("%s refuses %s: %s", name, claims.get("sub"), refusal.__cause__ or "its condition is false")
            raise OAuthError(
                "unauthorized_client", "The given credential is rejected by the attribute condition."
            ) from refusal
        principal = federated(name.partition("/providers/")[0], found.subject, found.groups, found.attributes)
        lifetime = min(LIFETIME, claims["exp"] - int(self._clock()))
        access, seconds = self._identity.mint_access_token(
            email=principal, scopes=form["scope"].split(), lifetime=lifetime
        )
        return {"access_token": access, "issued_token_type": _ACCESS, "token_type": "Bearer", "expires_in": seconds}

    def _provider(self, form: Mapping[str, str], admit: Callable[[str], None]) -> Document:
        for name in form.keys() - set(_KNOWN):
            raise OAuthError("invalid_request", f"The local cloud does not support the parameter {name[:100]}.")
        for name in ("grant_type", "requested_token_type", "subject_token", "subject_token_type", "audience", "scope"):
            if not form.get(name, "").strip():
                raise OAuthError("invalid_request", f"Missing required parameter: {name}")
        if form["grant_type"] != _GRANT:
            raise OAuthError("unsupported_grant_type", f'Invalid value for "grant_type": use {_GRANT}.')
        if form["requested_token_type"] != _ACCESS:
            raise OAuthError("invalid_request", f'Invalid value for "requested_token_type": use {_ACCESS}.')
        if form["subject_token_type"] not in _SUBJECTS:
            raise OAuthError(
                "invalid_request", f'Invalid value for "subject_token_type": use {" or ".join(_SUBJECTS)}.'
            )
        if form.get("options") and _options(form["options"]):
            raise OAuthError("invalid_request", "The local cloud supports no options but userProject.")
        match = _AUDIENCE.fullmatch(form["audience"])
        if match is None:
            raise OAuthError("invalid_request", _BAD_AUDIENCE)
        provider = self._pools.exchanging(match["provider"])
        if provider is None:
            raise OAuthError("invalid_target", _NO_TARGET)
        admit(match["project"])
        return provider

    async def _verified(self, token: str, provider: Document) -> dict[str, Any]:
        oidc: Document = provider["oidc"]
        try:
            claimed = external.claims_of(token)
        except TokenError as refusal:
            raise OAuthError("invalid_request", "Unable to parse the ID Token.") from refusal
        # First what costs nothing: an issuer is asked only for what says that it is its own, and for this provider.
        if claimed.get("iss") != oidc["issuerUri"]:
            raise OAuthError(
                "invalid_grant", f"The issuer in ID Token {claimed.get('iss')} does not match the expected ones."
            )
        audiences = claimed.get("aud")
        given = json_api.as_list(audiences) or [audiences]
        canonical = [f"//iam.googleapis.com/{provider['name']}", f"https://iam.googleapis.com/{provider['name']}"]
        if not any(one in oidc.get("allowedAudiences", canonical) for one in given):
            shown = ", ".join(map(str, given))
            raise OAuthError(
                "invalid_grant", f"The audience in ID Token [{shown}] does not match the expected audience."
            )
        try:
            keys = (
                external.key_set(oidc["jwksJson"])
                if "jwksJson" in oidc
                else await self._issuers.keys(oidc["issuerUri"])
            )
            claims = external.verify(token, keys, self._clock())
        except external.IssuerError as refusal:
            _log.warning("%s: the keys of %s cannot be had: %s", provider["name"], oidc["issuerUri"], refusal)
            raise OAuthError("invalid_grant", "Error connecting to the given credential's issuer.") from refusal
        except TokenTimeError as refusal:
            raise OAuthError(
                "invalid_grant", f"ID Token issued at {claimed.get('iat')} is stale to sign-in."
            ) from refusal
        except TokenError as refusal:
            _log.info("%s refuses a token: %s", provider["name"], refusal)
            raise OAuthError("invalid_grant", "Invalid JWT Signature.") from refusal
        if not isinstance(claims.get("sub"), str):
            raise OAuthError("invalid_grant", "The ID Token has no subject.")
        return claims


def _options(text: str) -> set[str]:
    """The names of options that are not honoured."""
    try:
        options = json_api.as_object(json_api.parse_strict_json(unquote(text).encode()))
    except (ValueError, RecursionError):
        options = None
    if options is None:
        raise OAuthError("invalid_request", 'Invalid value for "options": not a JSON object.')
    return options.keys() - {"userProject"}


def routes(exchange: TokenExchange, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's route."""

    async def token(request: Request) -> Response:
        try:
            form = _form(await request.body(), request.headers.get("content-type", ""))
            answer = await exchange.exchange(form, lambda project: gate.require_api(project, API))
        except OAuthError as refusal:
            body = {"error": refusal.error, "error_description": refusal.description}
            return JSONResponse(body, status_code=refusal.http_code)
        return JSONResponse(answer, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

    return [Route("/sts/v1/token", token, methods=["POST"])]


def _form(body: bytes, kind: str) -> dict[str, str]:
    """The parameters in a form (RFC 8693), or in JSON with either spelling (the API's own)."""
    if kind.partition(";")[0].strip().lower() != "application/json":
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
