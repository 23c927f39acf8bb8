"""What Google publishes under a name of its own, where containers look for it: Identity-Aware Proxy's public keys.

Whoever checks the proxy's assertions has their address built in (cloud.google.com/iap/docs/signed-headers-howto), and
would find Google's own keys there, which sign nothing here.
"""

import json
from typing import Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.front_end.arrivals import host_of
from mcpfleet_local_cloud.state.store import Document

HOST: Final = "www.gstatic.com"
PATH: Final = "/iap/verify/public_key-jwk"


class Keys(Protocol):
    """What has the keys."""

    def jwks(self) -> Document:
        """The public keys as a JSON Web Key Set."""
        ...


def create_published(keys: Keys, front: ASGIApp) -> ASGIApp:
    """The ASGI app at the gateway of the cloud's network: requests for `HOST`, and *front* for all others."""

    async def published(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or host_of(scope["headers"]) != HOST:
            await front(scope, receive, send)
            return
        found = scope["path"] == PATH and scope["method"] in ("GET", "HEAD")
        body = json.dumps(keys.jwks()).encode() if found else b""
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200 if found else 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return published
