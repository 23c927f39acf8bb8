"""An authorization server on a loopback port: real HTTP, real keys, tokens by client credentials (RFC 6749, 4.4)."""

import asyncio
import functools
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

CLIENT = ("desk", "a-secret-of-this-test")
METADATA = "/.well-known/oauth-authorization-server"
OPENID = "/.well-known/openid-configuration"
KEYS = "/keys"

Answer = Callable[[Request], Awaitable[Response]]


@functools.cache
def private_key(_name: str) -> rsa.RSAPrivateKey:
    """Made once for all tests: making one takes longer than a test."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def free_socket() -> socket.socket:
    """A socket whose port is ours, and refuses connections until it is served."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    return listener


def url_of(bound: socket.socket) -> str:
    return f"http://127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def served(app: Any, bound: socket.socket) -> AsyncIterator[None]:
    """Serve an application over HTTP, in this loop."""
    config = uvicorn.Config(app, log_config=None, ws="none", access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup(sockets=[bound])
    try:
        yield
    finally:
        await server.shutdown(sockets=[bound])


class AuthorizationServer:
    """An authorization server with metadata, keys and tokens, which misbehaves if a test says so."""

    def __init__(self) -> None:
        self.socket = free_socket()
        self.url = url_of(self.socket)
        self.asked: list[str] = []
        self.ill: dict[str, Answer] = {}
        """By path: what answers instead."""
        self.recovered = asyncio.Event()
        self.keys: dict[str, rsa.RSAPrivateKey] = {}
        self.rotate("one")

    def rotate(self, key_id: str) -> None:
        """Sign by a new key; the old ones are no longer published."""
        self.keys = {key_id: private_key(key_id)}

    def public(self) -> list[dict[str, Any]]:
        return [
            {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"}
            for key_id, key in self.keys.items()
        ]

    def sign(self, *, key: Any = None, key_id: str | None = None, **claims: Any) -> str:
        """A token; by default a good one, but for its audience and scope."""
        newest = list(self.keys)[-1]
        now = int(time.time())
        members = {"iss": self.url, "sub": CLIENT[0], "client_id": CLIENT[0], "iat": now, "exp": now + 60} | claims
        headers = {"kid": key_id or newest, "typ": "at+jwt"}
        return jwt.encode(members, key or self.keys[newest], algorithm="RS256", headers=headers)

    async def token(self, resource: str, scope: str) -> str:
        """Get a token as a client does: learn the endpoint, show the secret."""
        async with httpx2.AsyncClient() as http:
            metadata = (await http.get(f"{self.url}{METADATA}")).json()
            form = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
            answer = await http.post(metadata["token_endpoint"], data=form, auth=CLIENT)
        self.asked.clear()
        return answer.raise_for_status().json()["access_token"]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Speak ASGI."""
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        self.asked.append(scope["path"])
        request = Request(scope, receive)
        answer = self.ill.get(scope["path"], self._answer)
        await (await answer(request))(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path == METADATA:
            return JSONResponse(
                {"issuer": self.url, "jwks_uri": f"{self.url}{KEYS}", "token_endpoint": f"{self.url}/token"}
            )
        if path == KEYS:
            return JSONResponse({"keys": self.public()})
        if path == "/token" and request.method == "POST":
            return await self._issue(request)
        return Response(status_code=404)

    async def _issue(self, request: Request) -> Response:
        credentials = request.headers.get("authorization")
        form = await request.form()
        if credentials != httpx2.BasicAuth(*CLIENT)._auth_header:
            return JSONResponse({"error": "invalid_client"}, 401)
        if form["grant_type"] != "client_credentials":
            return JSONResponse({"error": "unsupported_grant_type"}, 400)
        token = self.sign(aud=form["resource"], scope=form["scope"])
        return JSONResponse({"access_token": token, "token_type": "Bearer", "expires_in": 60})

    async def hang(self, _request: Request) -> Response:
        """Answer when the test is over."""
        await self.recovered.wait()
        return Response(status_code=503)
