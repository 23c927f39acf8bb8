"""OAuth 2.0 at `/oauth2/`: the token endpoint and the JSON Web Key Set."""

from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.tokens import Identity
from mcpfleet_local_cloud.services.oauth.model import OAuthError, TokenEndpoint


def routes(endpoint: TokenEndpoint, identity: Identity) -> list[BaseRoute]:
    """The endpoints' routes."""

    async def token(request: Request) -> Response:
        # RFC 6749 sends a form, and nothing else; a parameter may not be repeated (section 3.2).
        pairs = parse_qsl((await request.body()).decode(errors="replace"))
        try:
            if len({name for name, _ in pairs}) != len(pairs):
                raise OAuthError("invalid_request", "A parameter is repeated.")
            answer = endpoint.exchange(dict(pairs))
        except OAuthError as refusal:
            body = {"error": refusal.error, "error_description": refusal.description}
            return JSONResponse(body, status_code=refusal.http_code)
        return JSONResponse(answer, headers={"Cache-Control": "no-store", "Pragma": "no-cache"})

    async def certs(_request: Request) -> Response:
        return JSONResponse(identity.jwks(), headers={"Cache-Control": "public, max-age=300"})

    return [
        Route("/oauth2/token", token, methods=["POST"]),
        Route("/oauth2/v3/certs", certs, methods=["GET"]),
    ]
