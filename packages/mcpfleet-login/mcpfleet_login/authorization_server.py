"""The endpoints of the authorization server: the MCP SDK's handlers, with checks that they leave to others.

RFC 8414 and RFC 9728 (metadata), RFC 7591 (registration), RFC 7636 (PKCE), RFC 8707 (resource), RFC 9207 (`iss`),
RFC 7009 (revocation), and the OAuth 2.1 draft as MCP's authorization page uses it.
"""

import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

from mcp.server.auth.handlers.authorize import AuthorizationHandler
from mcp.server.auth.handlers.metadata import MetadataHandler, ProtectedResourceMetadataHandler
from mcp.server.auth.handlers.register import RegistrationHandler
from mcp.server.auth.handlers.token import TokenHandler
from mcp.server.auth.middleware.client_auth import AuthenticationError, ClientAuthenticator
from mcp.server.auth.settings import ClientRegistrationOptions
from mcp.server.transport_security import RequestBodyLimitMiddleware
from mcp.shared.auth import OAuthMetadata, ProtectedResourceMetadata
from starlette.applications import Starlette
from starlette.datastructures import ImmutableMultiDict
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, request_response
from starlette.types import ASGIApp

from mcpfleet_login.clients import SCOPE, Client, Clients, UnknownClientError
from mcpfleet_login.consent import Consent
from mcpfleet_login.families import EndedError, Families
from mcpfleet_login.issuer import Issuer, IssuerError
from mcpfleet_login.members import Members
from mcpfleet_login.pages import error_page
from mcpfleet_login.provider import Provider
from mcpfleet_login.sealing import Sealer
from mcpfleet_login.store import StoreError

logger = logging.getLogger(__name__)

PREFIX: Final = "/oauth/"
CALLBACK_PATH: Final = f"{PREFIX}callback"
RESOURCE_METADATA_PREFIX: Final = "/.well-known/oauth-protected-resource"

_CONSENT_PATH: Final = f"{PREFIX}consent"
_MAX_BODY_BYTES: Final = 32 * 1024
_RETRY_SECONDS: Final = "5"
_NO_STORE: Final = {"cache-control": "no-store"}
_VERIFIER: Final = re.compile(r"[A-Za-z0-9._~-]{43,128}", re.ASCII)

Handler = Callable[[Request], Awaitable[Response]]


class AuthorizationServer:
    """The authorization server of one MCP endpoint.

    Args:
        base_url: The service's URL, without a slash at the end. It is the issuer of the tokens.
        resource: The URL of the MCP endpoint.
        sealer: Seals tokens.
        clients: Finds and registers clients.
        families: The logins.
        issuer: Where people log in.
        members: Who may use the server.
        registration: Whether clients may register themselves.
    """

    def __init__(
        self,
        base_url: str,
        resource: str,
        *,
        sealer: Sealer,
        clients: Clients,
        families: Families,
        issuer: Issuer,
        members: Members,
        registration: bool = True,
    ) -> None:
        self._resource = resource
        self._clients = clients
        self._families = families
        self._consent_url = f"{base_url}{_CONSENT_PATH}"
        provider = Provider(self._consent_url, sealer, clients, families, issuer, members)
        self._authenticator = ClientAuthenticator(provider)
        self._authorization = AuthorizationHandler(provider)
        self._tokens = TokenHandler(provider, self._authenticator)
        self._registration = RegistrationHandler(provider, ClientRegistrationOptions(enabled=registration))
        consent = Consent(base_url, sealer, families, issuer, members, PREFIX)
        metadata = MetadataHandler(_server_metadata(base_url, registration=registration)).handle
        resource_metadata = ProtectedResourceMetadataHandler(
            ProtectedResourceMetadata.model_validate(
                {"resource": resource, "authorization_servers": [base_url], "scopes_supported": [SCOPE]}
            )
        ).handle
        resource_path = f"{RESOURCE_METADATA_PREFIX}{urlsplit(resource).path}"
        routes = [
            _open_route("/.well-known/oauth-authorization-server", metadata, "GET"),
            _open_route(resource_path, resource_metadata, "GET"),
            _open_route(RESOURCE_METADATA_PREFIX, resource_metadata, "GET"),
            _open_route(f"{PREFIX}token", _json_errors(self._token), "POST"),
            _open_route(f"{PREFIX}revoke", _json_errors(self._revoke), "POST"),
            _page_route(f"{PREFIX}authorize", self._authorize, "GET"),
            _page_route(_CONSENT_PATH, consent.show, "GET"),
            _page_route(_CONSENT_PATH, consent.decide, "POST"),
            _page_route(CALLBACK_PATH, consent.finish, "GET"),
        ]
        if registration:
            routes.append(_open_route(f"{PREFIX}register", _json_errors(self._registration.handle), "POST"))
        self.app: ASGIApp = RequestBodyLimitMiddleware(Starlette(routes=routes), _MAX_BODY_BYTES)

    async def _authorize(self, request: Request) -> Response:
        """Check an authorization request and send the person to the consent page.

        Mistakes are shown to the person. A redirect to a client that has registered itself would be an open redirect.
        """
        parameters = request.query_params
        if name := _find_duplicate(parameters):
            return _refusal(f"The parameter {name} occurs twice")
        try:
            client = await self._clients.find(parameters.get("client_id", ""))
        except UnknownClientError as error:
            return _refusal(str(error))
        if not client.allows_redirect(parameters.get("redirect_uri", "")):
            return _refusal("The redirect URI is not one of the client's")
        if not self._is_resource(parameters.get("resource")):
            return _refusal("The request is for another server")
        if parameters.get("code_challenge_method") != "S256":
            return _refusal("code_challenge_method must be S256")
        response = await self._authorization.handle(request)
        location = response.headers.get("location", "")
        if location.startswith(f"{self._consent_url}?"):
            return response
        if location:
            reasons = parse_qs(urlsplit(location).query).get("error_description", [""])
        else:
            reasons = [str(json.loads(bytes(response.body)).get("error_description"))]
        return _refusal(reasons[0])

    async def _token(self, request: Request) -> Response:
        form = await _read_form(request)
        if form is None:
            return _oauth_error("invalid_request", "the body must be a form with each parameter once")
        if not self._is_resource(form.get("resource")):
            return _oauth_error("invalid_target", "the resource is not this server")
        if form.get("grant_type") == "authorization_code" and not _VERIFIER.fullmatch(form.get("code_verifier", "")):
            return _oauth_error("invalid_request", "code_verifier must have 43 to 128 unreserved characters")
        return await self._tokens.handle(request)

    async def _revoke(self, request: Request) -> Response:
        """End the login of a refresh token (RFC 7009). The SDK's handler refuses clients without a secret."""
        form = await _read_form(request)
        if form is None or not form.get("token"):
            return _oauth_error("invalid_request", "the body must be a form with a token")
        try:
            client = await self._authenticator.authenticate_request(request)
        except AuthenticationError as error:
            return _oauth_error("invalid_client", error.message, 401)
        if isinstance(client, Client):
            with contextlib.suppress(EndedError):  # the answer is the same: the token is not valid any more
                await self._families.end(await self._families.load_refresh_token(form["token"], client.fingerprint))
        return Response(status_code=200, headers=_NO_STORE)

    def _is_resource(self, resource: str | None) -> bool:
        """Return whether a request is for this MCP endpoint; older clients name none, and there is no other."""
        return resource is None or resource.removesuffix("/") == self._resource


def _server_metadata(base_url: str, *, registration: bool) -> OAuthMetadata:
    methods = ["none", "client_secret_post", "client_secret_basic"]
    return OAuthMetadata.model_validate(
        {
            "issuer": base_url,
            "authorization_endpoint": f"{base_url}{PREFIX}authorize",
            "token_endpoint": f"{base_url}{PREFIX}token",
            "registration_endpoint": f"{base_url}{PREFIX}register" if registration else None,
            "revocation_endpoint": f"{base_url}{PREFIX}revoke",
            "scopes_supported": [SCOPE],
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_methods_supported": methods,
            "revocation_endpoint_auth_methods_supported": methods,
            "code_challenge_methods_supported": ["S256"],
            "client_id_metadata_document_supported": True,
            "authorization_response_iss_parameter_supported": True,
        }
    )


def _find_duplicate(parameters: ImmutableMultiDict[str, Any]) -> str | None:
    """Return a parameter that occurs twice, which OAuth forbids (RFC 6749, section 3.1)."""
    names = [name for name, _ in parameters.multi_items()]
    return next((name for name in names if names.count(name) > 1), None) if len(names) != len(set(names)) else None


async def _read_form(request: Request) -> dict[str, str] | None:
    """Return the fields of a form, or None if it is no form, or a field occurs twice or is a file."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        return None
    form = await request.form(max_fields=50)
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    return fields if len(fields) == len(form.multi_items()) else None


def _oauth_error(error: str, description: str, status: int = 400) -> Response:
    return JSONResponse({"error": error, "error_description": description}, status, _NO_STORE)


def _refusal(text: str) -> Response:
    return error_page("The application's request can't be accepted", f"{text}.", 400)


def _json_errors(handler: Handler) -> Handler:
    """Return the handler with a response for what can't be reached, which the client may try again."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except (StoreError, IssuerError) as error:
            logger.warning("A request to %s failed: %s", request.url.path, error)
            response = _oauth_error("temporarily_unavailable", "a service that the login needs can't be reached", 503)
            response.headers["retry-after"] = _RETRY_SECONDS
            return response

    return handle


def _open_route(path: str, handler: Handler, method: str) -> Route:
    """Return the route of an endpoint that pages of any origin may call: it takes no cookies."""
    app = CORSMiddleware(
        request_response(handler),
        allow_origins=["*"],
        allow_methods=[method],
        allow_headers=["authorization", "content-type", "mcp-protocol-version"],
    )
    return Route(path, app, methods=[method, "OPTIONS"])


def _page_route(path: str, handler: Handler, method: str) -> Route:
    """Return the route of a page."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except (StoreError, IssuerError) as error:
            logger.warning("A request to %s failed: %s", request.url.path, error)
            return error_page("The login can't be continued at present", "Try it again in a few seconds.", 503)

    return Route(path, handle, methods=[method])
