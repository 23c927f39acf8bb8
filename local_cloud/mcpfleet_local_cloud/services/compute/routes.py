"""Compute Engine v1 below `/compute/v1/`: parses and renders; `model.py` decides."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import unimplemented
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.compute.answers import kind_of
from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.handlers import Handlers

API: Final = "compute.googleapis.com"
_PROJECT: Final = "/compute/v1/projects/{project}"
_PLACES: Final = (_PROJECT + "/global", _PROJECT + "/regions/{region}")
SETTERS: Final = {
    "setLabels": None,
    "setUrlMap": "urlMap",
    "setSslCertificates": "sslCertificates",
    "setCertificateMap": "certificateMap",
    "setTarget": "target",
}


def routes(model: Compute, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, gate)
    found: list[BaseRoute] = [Route(_PROJECT, api.project_document, methods=["GET"])]
    for place in _PLACES:
        found += [
            Route(place + "/operations/{operation}", api.operation, methods=["GET"]),
            Route(place + "/operations/{operation}/wait", api.operation, methods=["POST"]),
            Route(place + "/{collection}", api.create, methods=["POST"]),
            Route(place + "/{collection}", api.list, methods=["GET"]),
            Route(place + "/{collection}/{name}", api.get, methods=["GET"]),
            Route(place + "/{collection}/{name}", api.replace, methods=["PUT"]),
            Route(place + "/{collection}/{name}", api.merge, methods=["PATCH"]),
            Route(place + "/{collection}/{name}", api.delete, methods=["DELETE"]),
            Route(place + "/{collection}/{name}/{setter}", api.set, methods=["POST"]),
        ]
    # The provider sets a proxy's certificates and map here.
    found.append(Route(_PROJECT + "/{collection}/{name}/{setter}", api.set, methods=["POST"]))
    return found


class _Api(Handlers):
    def __init__(self, model: Compute, gate: ApiAuthorizer) -> None:
        super().__init__(gate, API)
        self._model = model

    async def project_document(self, request: Request) -> Response:
        project = self.project(request)
        self.allow(request, "resourcemanager.projects.get", f"projects/{project['projectId']}")
        found = {"kind": "compute#project", "name": project["projectId"], "id": project["projectNumber"]}
        return json_api.reply(request, found)

    async def create(self, request: Request) -> Response:
        parent, collection = self._permitted(request, "create")
        return json_api.reply(request, self._model.create(parent, collection, await read_body(request)))

    async def list(self, request: Request) -> Response:
        parent, collection = self._permitted(request, "list")
        found = self._model.documents(parent, collection)
        kind = f"compute#{kind_of(parent, collection).one}List"
        return json_api.reply(
            request, {"kind": kind, **json_api.list_page(request, "items", found, default=500, maximum=500)}
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._path(request, "get")))

    async def replace(self, request: Request) -> Response:
        return json_api.reply(
            request, self._model.change(self._path(request, "update"), await read_body(request), merge=False)
        )

    async def merge(self, request: Request) -> Response:
        return json_api.reply(
            request, self._model.change(self._path(request, "update"), await read_body(request), merge=True)
        )

    async def delete(self, request: Request) -> Response:
        return json_api.reply(request, self._model.delete(self._path(request, "delete")))

    async def set(self, request: Request) -> Response:
        setter = request.path_params["setter"]
        if setter not in SETTERS:
            raise unimplemented(setter, "change the document instead.")
        field = SETTERS[setter]
        path = self._path(request, "update")
        body = await read_body(request)
        if field is None:
            done = self._model.label(path, body.get("labels"), body.get("labelFingerprint", ""))
        else:
            done = self._model.change(path, {field: body.get(field)}, merge=True, doing=setter)
        return json_api.reply(request, done)

    async def operation(self, request: Request) -> Response:
        """Every operation is done when it is answered: to wait for one is to read it."""
        return json_api.reply(
            request, self._model.operation(f"{self._parent(request)}/operations/{request.path_params['operation']}")
        )

    def _parent(self, request: Request) -> str:
        name = f"projects/{self.project(request)['projectId']}"
        region = request.path_params.get("region")
        return f"{name}/regions/{region}" if region else f"{name}/global"

    def _permitted(self, request: Request, verb: str) -> tuple[str, str]:
        parent, collection = self._parent(request), request.path_params["collection"]
        self.allow(request, f"compute.{kind_of(parent, collection).permission}.{verb}", parent)
        return parent, collection

    def _path(self, request: Request, verb: str) -> str:
        parent, collection = self._permitted(request, verb)
        return f"{parent}/{collection}/{request.path_params['name']}"
