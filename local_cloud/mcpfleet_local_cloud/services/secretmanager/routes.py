"""The HTTP layer of Secret Manager v1 at `/secretmanager/v1/`; `model.py` has the logic.

Only the handler of `:access` returns a value. No handler logs a body.
"""

import base64
from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.masks import find_masked_fields
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers, PolicyMethods
from mcpfleet_local_cloud.services.secretmanager.model import SecretManager, checksum
from mcpfleet_local_cloud.state.store import Document

API: Final = "secretmanager.googleapis.com"
_PROJECT: Final = "/secretmanager/v1/projects/{project}"
_SECRET: Final = _PROJECT + "/secrets/{secret}"
_VERSION: Final = _SECRET + "/versions/{version}"
_PAGE_SIZE: Final = 25000


def routes(model: SecretManager, policies: Policies, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, policies, authorizer)
    return [
        Route(_PROJECT + "/secrets", api.create, methods=["POST"]),
        Route(_PROJECT + "/secrets", api.list, methods=["GET"]),
        *PolicyMethods(api.resource_name, policies, authorizer).routes(_SECRET),
        Route(_SECRET + ":addVersion", api.add_version, methods=["POST"]),
        Route(_SECRET, api.get, methods=["GET"]),
        Route(_SECRET, api.update, methods=["PATCH"]),
        Route(_SECRET, api.delete, methods=["DELETE"]),
        Route(_SECRET + "/versions", api.versions, methods=["GET"]),
        Route(_VERSION + ":access", api.access, methods=["GET"]),
        Route(_VERSION + ":enable", api.enable, methods=["POST"]),
        Route(_VERSION + ":disable", api.disable, methods=["POST"]),
        Route(_VERSION + ":destroy", api.destroy, methods=["POST"]),
        Route(_VERSION, api.version, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, model: SecretManager, policies: Policies, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._policies = policies

    def resource_name(self, request: Request, verb: str) -> str:
        """Return the full name of the path's secret, which must exist; the caller needs the permission for *verb*."""
        name = self._name(request)
        if verb:
            self.require_permission(request, f"secretmanager.secrets.{verb}", name)
        self._model.get(name)
        return name

    async def create(self, request: Request) -> Response:
        parent = self.parent(request)
        secret_id = request.query_params.get("secretId", "")
        self.require_permission(request, "secretmanager.secrets.create", parent)
        body = await read_body(request)
        return json_api.reply(request, self._model.create(parent.partition("/")[2], secret_id, body))

    async def list(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "secretmanager.secrets.list", parent)
        return json_api.reply(request, _page(request, "secrets", self._model.secrets(parent.partition("/")[2])))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self.resource_name(request, "get")))

    async def update(self, request: Request) -> Response:
        name = self.resource_name(request, "update")
        if not request.query_params.get("updateMask"):
            raise invalid("update_mask: must name the fields to change.")
        body = await read_body(request)
        return json_api.reply(request, self._model.update(name, body, find_masked_fields(request, body)))

    async def delete(self, request: Request) -> Response:
        name = self.resource_name(request, "delete")
        self._model.delete(name, request.query_params.get("etag", ""))
        self._policies.delete(name)
        return json_api.reply(request, {})

    async def add_version(self, request: Request) -> Response:
        name = self._name(request)
        self.require_permission(request, "secretmanager.versions.add", name)
        body = await read_body(request)
        return json_api.reply(request, self._model.add_version(name, body.get("payload", {})))

    async def versions(self, request: Request) -> Response:
        name = self._name(request)
        self.require_permission(request, "secretmanager.versions.list", name)
        return json_api.reply(request, _page(request, "versions", self._model.versions(name)))

    async def version(self, request: Request) -> Response:
        return json_api.reply(request, self._model.version(*self._authorize_version(request, "get")))

    async def access(self, request: Request) -> Response:
        payload = self._model.access(*self._authorize_version(request, "access"))
        data = {"data": base64.b64encode(payload.data).decode(), "dataCrc32c": checksum(payload.data)}
        return json_api.reply(request, {"name": payload.name, "payload": data})

    async def enable(self, request: Request) -> Response:
        return await self._change_state(request, "enable")

    async def disable(self, request: Request) -> Response:
        return await self._change_state(request, "disable")

    async def destroy(self, request: Request) -> Response:
        return await self._change_state(request, "destroy")

    async def _change_state(self, request: Request, verb: str) -> Response:
        name, version = self._authorize_version(request, verb)
        etag: str = (await read_body(request)).get("etag", "")
        return json_api.reply(request, self._model.change_state(name, version, verb, etag))

    def _authorize_version(self, request: Request, verb: str) -> tuple[str, str]:
        """Return the secret's name and the version in the path; the caller needs the permission for *verb*."""
        name, version = self._name(request), request.path_params["version"]
        self.require_permission(request, f"secretmanager.versions.{verb}", f"{name}/versions/{version}")
        return name, version

    def _name(self, request: Request) -> str:
        return f"{self.parent(request)}/secrets/{request.path_params['secret']}"


def _page(request: Request, field: str, items: Sequence[Document]) -> Document:
    return {
        **json_api.list_page(request, field, items, default=_PAGE_SIZE, maximum=_PAGE_SIZE),
        "totalSize": len(items),
    }
