"""The HTTP layer of Certificate Manager v1 at `/certificatemanager/v1/`; `model.py` has the logic."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import unimplemented
from mcpfleet_local_cloud.rest.masks import find_masked_fields
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.certificatemanager.model import CertificateManager
from mcpfleet_local_cloud.services.certificatemanager.resource_types import ENTRIES, MAPS, RESOURCE_TYPES, ResourceType
from mcpfleet_local_cloud.services.handlers import Handlers

API: Final = "certificatemanager.googleapis.com"
_PAGE_SIZE: Final = 500
"""The default and the largest number of documents on a page."""
_LOCATION: Final = "/certificatemanager/v1/projects/{project}/locations/{location}"


def routes(model: CertificateManager, operations: Operations, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api_routes: list[BaseRoute] = []
    for resource_type in RESOURCE_TYPES:
        api = _Api(model, operations, authorizer, resource_type)
        collection_path = f"{_LOCATION}/{MAPS.collection}/{{map}}" if resource_type is ENTRIES else _LOCATION
        collection_path = f"{collection_path}/{resource_type.collection}"
        api_routes += [
            Route(collection_path, api.create, methods=["POST"]),
            Route(collection_path, api.list, methods=["GET"]),
            Route(f"{collection_path}/{{name}}", api.get, methods=["GET"]),
            Route(f"{collection_path}/{{name}}", api.update, methods=["PATCH"]),
            Route(f"{collection_path}/{{name}}", api.delete, methods=["DELETE"]),
        ]
    operation = _Api(model, operations, authorizer, RESOURCE_TYPES[0]).operation
    return [*api_routes, Route(_LOCATION + "/operations/{operation}", operation, methods=["GET"])]


class _Api(Handlers):
    """The handlers of one collection."""

    def __init__(
        self, model: CertificateManager, operations: Operations, authorizer: ApiAuthorizer, resource_type: ResourceType
    ) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._operations = operations
        self._resource_type = resource_type

    async def create(self, request: Request) -> Response:
        parent = self._authorize_parent(request, "create")
        document_id = request.query_params.get(self._resource_type.id_parameter, "")
        path = f"{parent}/{self._resource_type.collection}/{document_id}"
        document = self._model.create(path, await read_body(request))
        return self._reply_finished(request, self._resource_type.message, document)

    async def list(self, request: Request) -> Response:
        parent = self._authorize_parent(request, "list")
        if self._resource_type is ENTRIES:
            self._model.get(parent)
        documents = self._model.list_documents(parent, self._resource_type.collection)
        page = json_api.list_page(
            request, self._resource_type.collection, documents, default=_PAGE_SIZE, maximum=_PAGE_SIZE
        )
        return json_api.reply(request, page)

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._authorize_document(request, "get")))

    async def update(self, request: Request) -> Response:
        path, body = self._authorize_document(request, "update"), await read_body(request)
        return self._reply_finished(
            request, self._resource_type.message, self._model.change(path, body, find_masked_fields(request, body))
        )

    async def delete(self, request: Request) -> Response:
        self._model.delete(self._authorize_document(request, "delete"))
        return self._reply_finished(request)

    async def operation(self, request: Request) -> Response:
        parent = self._location(request)
        self.require_permission(request, "certificatemanager.operations.get", parent)
        return json_api.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    def _reply_finished(
        self, request: Request, message: str = "", document: dict[str, object] | None = None
    ) -> Response:
        return self.reply_finished(request, self._operations, self._location(request), message, document)

    def _location(self, request: Request) -> str:
        location = self.parent(request)
        if not location.endswith("/locations/global"):
            raise unimplemented(location, "use locations/global, where load balancers find certificates.")
        return location

    def _authorize_parent(self, request: Request, verb: str) -> str:
        parent = self._location(request)
        if self._resource_type is ENTRIES:
            parent = f"{parent}/{MAPS.collection}/{request.path_params['map']}"
        self.require_permission(request, f"certificatemanager.{self._resource_type.permission}.{verb}", parent)
        return parent

    def _authorize_document(self, request: Request, verb: str) -> str:
        return f"{self._authorize_parent(request, verb)}/{self._resource_type.collection}/{request.path_params['name']}"
