"""Certificate Manager v1 below `/certificatemanager/v1/`: parses and renders; `model.py` decides."""

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
from mcpfleet_local_cloud.services.certificatemanager.kinds import ENTRIES, KINDS, MAPS, ResourceType
from mcpfleet_local_cloud.services.certificatemanager.model import CertificateManager
from mcpfleet_local_cloud.services.handlers import Handlers

API: Final = "certificatemanager.googleapis.com"
_PAGE: Final = 500
"""How many documents a page has at most, unless the caller wants fewer."""
_PLACE: Final = "/certificatemanager/v1/projects/{project}/locations/{location}"


def routes(model: CertificateManager, operations: Operations, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    found: list[BaseRoute] = []
    for kind in KINDS:
        api = _Api(model, operations, gate, kind)
        many = f"{_PLACE}/{MAPS.collection}/{{map}}" if kind is ENTRIES else _PLACE
        many = f"{many}/{kind.collection}"
        found += [
            Route(many, api.create, methods=["POST"]),
            Route(many, api.list, methods=["GET"]),
            Route(f"{many}/{{name}}", api.get, methods=["GET"]),
            Route(f"{many}/{{name}}", api.update, methods=["PATCH"]),
            Route(f"{many}/{{name}}", api.delete, methods=["DELETE"]),
        ]
    operation = _Api(model, operations, gate, KINDS[0]).operation
    return [*found, Route(_PLACE + "/operations/{operation}", operation, methods=["GET"])]


class _Api(Handlers):
    """One collection."""

    def __init__(
        self, model: CertificateManager, operations: Operations, gate: ApiAuthorizer, kind: ResourceType
    ) -> None:
        super().__init__(gate, API)
        self._model = model
        self._operations = operations
        self._kind = kind

    async def create(self, request: Request) -> Response:
        parent = self._permitted(request, "create")
        path = f"{parent}/{self._kind.collection}/{request.query_params.get(self._kind.id_parameter, '')}"
        made = self._model.create(path, await read_body(request))
        return self._done(request, self._kind.message, made)

    async def list(self, request: Request) -> Response:
        parent = self._permitted(request, "list")
        if self._kind is ENTRIES:
            self._model.get(parent)
        found = self._model.all(parent, self._kind.collection)
        page = json_api.list_page(request, self._kind.collection, found, default=_PAGE, maximum=_PAGE)
        return json_api.reply(request, page)

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._path(request, "get")))

    async def update(self, request: Request) -> Response:
        path, body = self._path(request, "update"), await read_body(request)
        return self._done(
            request, self._kind.message, self._model.change(path, body, find_masked_fields(request, body))
        )

    async def delete(self, request: Request) -> Response:
        self._model.delete(self._path(request, "delete"))
        return self._done(request)

    async def operation(self, request: Request) -> Response:
        parent = self._place(request)
        self.allow(request, "certificatemanager.operations.get", parent)
        return json_api.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    def _done(self, request: Request, message: str = "", document: dict[str, object] | None = None) -> Response:
        return self.finished(request, self._operations, self._place(request), message, document)

    def _place(self, request: Request) -> str:
        place = self.parent(request)
        if not place.endswith("/locations/global"):
            raise unimplemented(place, "certificates are in locations/global here, where load balancers need them.")
        return place

    def _permitted(self, request: Request, verb: str) -> str:
        parent = self._place(request)
        if self._kind is ENTRIES:
            parent = f"{parent}/{MAPS.collection}/{request.path_params['map']}"
        self.allow(request, f"certificatemanager.{self._kind.permission}.{verb}", parent)
        return parent

    def _path(self, request: Request, verb: str) -> str:
        return f"{self._permitted(request, verb)}/{self._kind.collection}/{request.path_params['name']}"
