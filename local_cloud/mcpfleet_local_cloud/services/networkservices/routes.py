"""Network Services v1 below `/networkservices/v1/`: parses and renders; `model.py` decides."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.masks import find_masked_fields
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.services.networkservices.model import COLLECTIONS, NetworkServices

API: Final = "networkservices.googleapis.com"
_PLACE: Final = "/networkservices/v1/projects/{project}/locations/{location}"
_MESSAGES: Final = {"meshes": "Mesh", "httpRoutes": "HttpRoute"}
_PAGE: Final = 500
_PARAMETERS: Final = {"meshes": "meshId", "httpRoutes": "httpRouteId"}


def routes(model: NetworkServices, operations: Operations, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    found: list[BaseRoute] = []
    for collection in COLLECTIONS:
        api = _Api(model, operations, gate, collection)
        one = f"{_PLACE}/{collection}/{{name}}"
        found += [
            Route(f"{_PLACE}/{collection}", api.create, methods=["POST"]),
            Route(f"{_PLACE}/{collection}", api.list, methods=["GET"]),
            Route(one, api.get, methods=["GET"]),
            Route(one, api.update, methods=["PATCH"]),
            Route(one, api.delete, methods=["DELETE"]),
        ]
    operation = _Api(model, operations, gate, "meshes").operation
    return [*found, Route(_PLACE + "/operations/{operation}", operation, methods=["GET"])]


class _Api(Handlers):
    """One collection."""

    def __init__(self, model: NetworkServices, operations: Operations, gate: ApiAuthorizer, collection: str) -> None:
        super().__init__(gate, API)
        self._model = model
        self._operations = operations
        self._collection = collection
        self._kind = COLLECTIONS[collection]

    async def create(self, request: Request) -> Response:
        parent = self._place(request)
        self._may(request, "create", parent)
        path = f"{parent}/{self._collection}/{request.query_params.get(_PARAMETERS[self._collection], '')}"
        body = await read_body(request)
        made = self._model.create(self._kind, path, body)
        return self.finished(request, self._operations, parent, _MESSAGES[self._collection], made)

    async def list(self, request: Request) -> Response:
        parent = self._place(request)
        self._may(request, "list", parent)
        found = self._model.all(self._kind, f"{parent}/{self._collection}/")
        return json_api.reply(
            request, json_api.list_page(request, self._collection, found, default=_PAGE, maximum=_PAGE)
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._kind, self._path(request, "get")))

    async def update(self, request: Request) -> Response:
        path = self._path(request, "update")
        body = await read_body(request)
        changed = self._model.change(self._kind, path, body, find_masked_fields(request, body))
        return self.finished(request, self._operations, self._place(request), _MESSAGES[self._collection], changed)

    async def delete(self, request: Request) -> Response:
        self._model.delete(self._kind, self._path(request, "delete"))
        return self.finished(request, self._operations, self._place(request))

    async def operation(self, request: Request) -> Response:
        parent = self._place(request)
        self.allow(request, "networkservices.operations.get", parent)
        return json_api.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    def _place(self, request: Request) -> str:
        parent = self.parent(request)
        if not parent.endswith("/locations/global"):
            raise invalid(f"{parent}: {self._collection} are in locations/global.")
        return parent

    def _path(self, request: Request, verb: str) -> str:
        path = f"{self._place(request)}/{self._collection}/{request.path_params['name']}"
        self._may(request, verb, path)
        return path

    def _may(self, request: Request, verb: str, resource: str) -> None:
        self.allow(request, f"networkservices.{self._collection}.{verb}", resource)
