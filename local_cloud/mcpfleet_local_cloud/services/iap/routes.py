"""The HTTP layer of Identity-Aware Proxy v1 at `/iap/v1/`; `model.py` has the logic."""

from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers, PolicyMethods
from mcpfleet_local_cloud.services.iap.model import KEYS_PATH, Iap, Keys

API: Final = "iap.googleapis.com"
_SERVICE: Final = "/iap/v1/projects/{project}/iap_web/{kind}/services/{service}"


def routes(model: Iap, keys: Keys, policies: Policies, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, authorizer)

    async def public_key(_request: Request) -> Response:
        return JSONResponse(keys.jwks())

    return [
        *PolicyMethods(api.resource_name, policies, authorizer).routes(_SERVICE, get="POST"),
        Route(_SERVICE + ":iapSettings", api.get, methods=["GET"]),
        Route(_SERVICE + ":iapSettings", api.update, methods=["PATCH"]),
        Route(KEYS_PATH, public_key, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, model: Iap, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model

    def resource_name(self, request: Request, verb: str) -> str:
        """Return the full name of the path's resource; the caller needs the permission for *verb* on its policy."""
        name = self._name(request)
        if verb:
            self.require_permission(request, f"iap.webServices.{verb}", name)
        return name

    async def get(self, request: Request) -> Response:
        name = self._name(request)
        self.require_permission(request, "iap.webServices.getSettings", name)
        return json_api.reply(request, self._model.get(name))

    async def update(self, request: Request) -> Response:
        name = self._name(request)
        self.require_permission(request, "iap.webServices.updateSettings", name)
        body = await read_body(request)
        return json_api.reply(request, self._model.update(name, body))

    def _name(self, request: Request) -> str:
        project = self.project(request)["projectId"]
        return f"projects/{project}/iap_web/{request.path_params['kind']}/services/{request.path_params['service']}"
