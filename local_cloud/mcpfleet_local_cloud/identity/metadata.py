"""The metadata server (docs/google-apis.md 5.3), which gives a container its identity and tokens.

It listens on port 80 of the gateway container, which only this cloud's containers can reach, and identifies a container
by its IP address. google-auth, gcloud and Google's other client libraries work with it unchanged.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mcpfleet_local_cloud.state.folder import Settings

FLAVOR: Final = "Google"
_ROOT: Final = "/computeMetadata/v1"
_SCOPES: Final = (
    "https://www.googleapis.com/auth/cloud-platform",
    "https://www.googleapis.com/auth/userinfo.email",
)
_MISSING_FLAVOR: Final = (
    "Missing required header: Metadata-Flavor: Google. Requests to the metadata server must carry it."
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A container that calls the metadata server."""

    service_account: str
    project: str
    region: str
    instance_id: str
    is_internal: bool = False
    """True if all its traffic goes through the project's VPC network."""
    network: str = ""
    """See `contract.Revision`."""
    mesh: str = ""
    """See `contract.Revision`."""


class TokenSigner(Protocol):
    """The methods of `tokens.Identity` that the metadata server needs."""

    def mint_id_token(self, *, email: str, subject: str, audience: str) -> str:
        """An ID token that is valid for an hour."""
        ...

    def mint_access_token(self, *, email: str, scopes: Sequence[str]) -> tuple[str, int]:
        """An access token and the seconds that it is valid."""
        ...


class _ErrorResponse(Exception):  # noqa: N818  # a response, not an error of the server
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


def create_metadata_app(
    lookup: Callable[[str], Workload | None],
    identity: TokenSigner,
    settings: Settings,
    unique_id: Callable[[str], str],
) -> ASGIApp:
    """Create the ASGI app.

    Args:
        lookup: finds the container with an IP address.
        identity: signs the tokens.
        settings: the cloud's settings.
        unique_id: returns the numeric id of a service account's email, which is the `sub` of ID tokens.
    """

    async def metadata(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            value = _answer(request)
            response = _render(value)
        except _ErrorResponse as error:
            _log.info("metadata: %d %s: %s", error.status, request.url.path, error.text)
            response = Response(error.text + "\n", error.status, media_type="text/html")
        response.headers["metadata-flavor"] = FLAVOR
        response.headers["server"] = "Metadata Server for VM"
        await response(scope, receive, send)

    def _answer(request: Request) -> Any:
        if "x-forwarded-for" in request.headers:
            raise _ErrorResponse(403, "Requests with the header X-Forwarded-For are refused.")
        path = request.url.path.rstrip("/")
        if request.method not in ("GET", "HEAD"):
            raise _ErrorResponse(405, f"{request.method} is not supported.")
        if not path:
            return "computeMetadata/\n"  # google-auth's ping checks only the response's header
        if request.headers.get("metadata-flavor") != FLAVOR:
            raise _ErrorResponse(403, _MISSING_FLAVOR)
        workload = lookup(request.client.host) if request.client else None
        if workload is None:
            raise _ErrorResponse(404, "No container of this cloud has your IP address.")
        if path != _ROOT and not path.startswith(f"{_ROOT}/"):
            raise _ErrorResponse(404, f"{path} is not served here.")
        return _read_path(_tree(workload), path.removeprefix(_ROOT).strip("/"), request.query_params)

    def _tree(workload: Workload) -> dict[str, Any]:
        email = workload.service_account

        def token(query: QueryParams) -> Any:
            scopes = query.get("scopes", "").split(",") if query.get("scopes") else list(_SCOPES)
            access, expires = identity.mint_access_token(email=email, scopes=scopes)
            return {"access_token": access, "expires_in": expires, "token_type": "Bearer"}

        def id_token(query: QueryParams) -> Any:
            audience = query.get("audience")
            if not audience:
                raise _ErrorResponse(400, "non-empty audience parameter required")
            return identity.mint_id_token(email=email, subject=unique_id(email), audience=audience)

        account = {
            "aliases": ["default"],
            "email": email,
            "scopes": list(_SCOPES),
            "token": token,
            "identity": id_token,
        }
        number = settings.project_number
        return {
            "project": {"project-id": workload.project, "numeric-project-id": number},
            "instance": {
                "id": hashlib.sha256(workload.instance_id.encode()).hexdigest(),
                "region": f"projects/{number}/regions/{workload.region}",
                "zone": f"projects/{number}/zones/{workload.region}-1",
                "service-accounts": {"default": account, email: account},
            },
            "universe": {"universe-domain": settings.universe},
        }

    return metadata


def _read_path(tree: dict[str, Any], path: str, query: QueryParams) -> Any:
    """The value at *path*; for a directory, its list, or all its content if `recursive=true`."""
    value: Any = tree
    for part in path.split("/") if path else []:
        if not isinstance(value, dict) or part not in value:
            raise _ErrorResponse(404, f"/{path} is not served here.")
        value = value[part]  # pyright: ignore[reportUnknownVariableType]
    if callable(value):  # pyright: ignore[reportUnknownArgumentType]
        return value(query)
    if not isinstance(value, dict):
        if isinstance(value, list):
            return "".join(f"{line}\n" for line in value)  # pyright: ignore[reportUnknownVariableType]
        return value  # pyright: ignore[reportUnknownVariableType]
    if query.get("recursive", "").lower() == "true":
        return _to_json(value)  # pyright: ignore[reportUnknownArgumentType]
    return "".join(f"{name}/\n" if isinstance(child, dict) else f"{name}\n" for name, child in value.items())  # pyright: ignore


def _to_json(directory: dict[str, Any]) -> dict[str, Any]:
    """A directory as JSON, with names in camel case as on Google, and without tokens, which need their own request."""
    return {
        _camel_case(name): _to_json(child) if isinstance(child, dict) else child  # pyright: ignore[reportUnknownArgumentType]
        for name, child in directory.items()
        if not callable(child)
    }


def _camel_case(name: str) -> str:
    if "@" in name:
        return name
    head, *rest = name.split("-")
    return head + "".join(part.title() for part in rest)


def _render(value: Any) -> Response:
    if isinstance(value, dict):
        return Response(json.dumps(value), media_type="application/json")
    return Response(str(value), media_type="application/text")
