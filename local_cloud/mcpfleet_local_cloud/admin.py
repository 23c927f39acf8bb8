"""The cloud's own API below `/_local/`: health is public; all other routes need the admin token of the state."""

import secrets
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.cloud import Cloud
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.json_api import as_list, as_object, parse_json, parse_number

_DEFAULT_LINES: Final = 200


def routes(cloud: Cloud) -> list[BaseRoute]:
    """The API's routes."""
    api = _Admin(cloud)
    return [
        Route("/_local/health", api.health, methods=["GET"]),
        Route("/_local/inventory", api.inventory, methods=["GET"]),
        Route("/_local/logs", api.logs, methods=["GET"]),
        Route("/_local/forget", api.forget, methods=["POST"]),
        Route("/_local/groups", api.groups, methods=["GET"]),
        Route("/_local/groups/{group}", api.put_group, methods=["PUT"]),
        Route("/_local/groups/{group}", api.delete_group, methods=["DELETE"]),
        Route("/_local/reset", api.reset, methods=["POST"]),
    ]


class _Admin:
    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    async def health(self, _request: Request) -> Response:
        status = "ok" if self._cloud.ready.is_set() else "starting"
        return JSONResponse({"status": status, "cloud": self._cloud.state.cloud_id, "version": self._cloud.version})

    async def inventory(self, request: Request) -> Response:
        self._require_admin(request)
        return JSONResponse(self._cloud.inventory())

    async def logs(self, request: Request) -> Response:
        self._require_admin(request)
        text = request.query_params.get("lines", str(_DEFAULT_LINES))
        lines = parse_number(text)
        if not lines:
            raise invalid(f"lines: {text[:20]!r} is not a number of lines.")
        service = request.query_params.get("service", "")
        return PlainTextResponse(await self._cloud.logs(service, lines))

    async def forget(self, request: Request) -> Response:
        self._require_admin(request)
        self._cloud.forget()
        return JSONResponse({})

    async def groups(self, request: Request) -> Response:
        self._require_admin(request)
        return JSONResponse({"groups": self._cloud.groups.all()})

    async def put_group(self, request: Request) -> Response:
        self._require_admin(request)
        body = as_object(parse_json(await request.body())) or {}
        members = as_list(body.get("members"))
        if members is None or len(body) > 1 or not all(isinstance(member, str) for member in members):
            raise invalid('The body must be {"members": [ADDRESS, ...]}.')
        return JSONResponse({"members": self._cloud.groups.put(request.path_params["group"], members)})

    async def delete_group(self, request: Request) -> Response:
        self._require_admin(request)
        self._cloud.groups.delete(request.path_params["group"])
        return JSONResponse({})

    async def reset(self, request: Request) -> Response:
        self._require_admin(request)
        await self._cloud.reset()
        return JSONResponse({})

    def _require_admin(self, request: Request) -> None:
        authorization = request.headers.get("authorization", "").encode()
        if not secrets.compare_digest(authorization, f"Bearer {self._cloud.state.admin_token}".encode()):
            raise GoogleError(
                "UNAUTHENTICATED",
                "Send `Authorization: Bearer TOKEN` with the token in the file admin-token of the state directory.",
            )
