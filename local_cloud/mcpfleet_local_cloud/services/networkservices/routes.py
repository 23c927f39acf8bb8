"""The HTTP layer of Network Services v1 at `/networkservices/v1/`; `model.py` has the logic."""

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
_LOCATION: Final = "/networkservices/v1/projects/{project}/locations/{location}"
_MESSAGES: Final = {"meshes": "Mesh", "httpRoutes": "HttpRoute"}
_PAGE_SIZE: Final = 500
_PARAMETERS: Final = {"meshes": "meshId", "httpRoutes": "httpRouteId"}


def routes(model: NetworkServices, operations: Operations, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api_routes: list[BaseRoute] = []
    for collection in COLLECTIONS:
        api = _Api(model, operations, authorizer, collection)
        item_path = f"{_LOCATION}/{collection}/{{name}}"
        api_routes += [
            Route(f"{_LOCATION}/{collection}", api.create, methods=["POST"]),
            Route(f"{_LOCATION}/{collection}", api.list, methods=["GET"]),
            Route(item_path, api.get, methods=["GET"]),
            Route(item_path, api.update, methods=["PATCH"]),
            Route(item_path, api.delete, methods=["DELETE"]),
        ]
    operation = _Api(model, operations, authorizer, "meshes").operation
    return [*api_routes, Route(_LOCATION + "/operations/{operation}", operation, methods=["GET"])]


class _Api(Handlers):
    """The handlers of one collection."""

    def __init__(
        self, model: NetworkServices, operations: Operations, authorizer: ApiAuthorizer, collection: str
    ) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._operations = operations
        self._collection = collection
        self._kind = COLLECTIONS[collection]

    async def create(self, request: Request) -> Response:
        parent = self._location(request)
        self._require(request, "create", parent)
        path = f"{parent}/{self._collection}/{request.query_params.get(_PARAMETERS[self._collection], '')}"
        body = await read_body(request)
        document = self._model.create(self._kind, path, body)
        return self.reply_finished(request, self._operations, parent, _MESSAGES[self._collection], document)

    async def list(self, request: Request) -> Response:
        parent = self._location(request)
        self._require(request, "list", parent)
        documents = self._model.list_documents(self._kind, f"{parent}/{self._collection}/")
        return json_api.reply(
            request, json_api.list_page(request, self._collection, documents, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._kind, self._authorize_document(request, "get")))

    async def update(self, request: Request) -> Response:
        path = self._authorize_document(request, "update")
        body = await read_body(request)
        changed = self._model.change(self._kind, path, body, find_masked_fields(request, body))
        return self.reply_finished(
            request, self._operations, self._location(request), _MESSAGES[self._collection], changed
        )

    async def delete(self, request: Request) -> Response:
        self._model.delete(self._kind, self._authorize_document(request, "delete"))
        return self.reply_finished(request, self._operations, self._location(request))

    async def operation(self, request: Request) -> Response:
        parent = self._location(request)
        self.require_permission(request, "networkservices.operations.get", parent)
        return json_api.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    def _location(self, request: Request) -> str:
        parent = self.parent(request)
        if not parent.endswith("/locations/global"):
            raise invalid(f"{parent}: {self._collection} are in locations/global.")
        return parent

    def _authorize_document(self, request: Request, verb: str) -> str:
        path = f"{self._location(request)}/{self._collection}/{request.path_params['name']}"
        self._require(request, verb, path)
        return path

    def _require(self, request: Request, verb: str, resource: str) -> None:
        self.require_permission(request, f"networkservices.{self._collection}.{verb}", resource)
