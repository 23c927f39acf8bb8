"""The HTTP layer of Compute Engine v1 at `/compute/v1/`; `model.py` has the logic."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import unimplemented
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.compute.documents import resource_type_of
from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.handlers import Handlers

API: Final = "compute.googleapis.com"
_PROJECT: Final = "/compute/v1/projects/{project}"
_PARENTS: Final = (_PROJECT + "/global", _PROJECT + "/regions/{region}")
SETTERS: Final = {
    "setLabels": None,
    "setUrlMap": "urlMap",
    "setSslCertificates": "sslCertificates",
    "setCertificateMap": "certificateMap",
    "setTarget": "target",
}


def routes(model: Compute, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, authorizer)
    api_routes: list[BaseRoute] = [Route(_PROJECT, api.project_document, methods=["GET"])]
    for parent in _PARENTS:
        api_routes += [
            Route(parent + "/operations/{operation}", api.operation, methods=["GET"]),
            Route(parent + "/operations/{operation}/wait", api.operation, methods=["POST"]),
            Route(parent + "/{collection}", api.create, methods=["POST"]),
            Route(parent + "/{collection}", api.list, methods=["GET"]),
            Route(parent + "/{collection}/{name}", api.get, methods=["GET"]),
            Route(parent + "/{collection}/{name}", api.replace, methods=["PUT"]),
            Route(parent + "/{collection}/{name}", api.merge, methods=["PATCH"]),
            Route(parent + "/{collection}/{name}", api.delete, methods=["DELETE"]),
            Route(parent + "/{collection}/{name}/{setter}", api.set, methods=["POST"]),
        ]
    # The provider uses this path to set a proxy's certificates and its certificate map.
    api_routes.append(Route(_PROJECT + "/{collection}/{name}/{setter}", api.set, methods=["POST"]))
    return api_routes


class _Api(Handlers):
    def __init__(self, model: Compute, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model

    async def project_document(self, request: Request) -> Response:
        project = self.project(request)
        self.require_permission(request, "resourcemanager.projects.get", f"projects/{project['projectId']}")
        document = {"kind": "compute#project", "name": project["projectId"], "id": project["projectNumber"]}
        return json_api.reply(request, document)

    async def create(self, request: Request) -> Response:
        parent, collection = self._authorize_collection(request, "create")
        return json_api.reply(request, self._model.create(parent, collection, await read_body(request)))

    async def list(self, request: Request) -> Response:
        parent, collection = self._authorize_collection(request, "list")
        documents = self._model.documents(parent, collection)
        list_kind = f"compute#{resource_type_of(parent, collection).singular}List"
        return json_api.reply(
            request, {"kind": list_kind, **json_api.list_page(request, "items", documents, default=500, maximum=500)}
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._authorize_document(request, "get")))

    async def replace(self, request: Request) -> Response:
        return json_api.reply(
            request,
            self._model.change(self._authorize_document(request, "update"), await read_body(request), merge=False),
        )

    async def merge(self, request: Request) -> Response:
        return json_api.reply(
            request,
            self._model.change(self._authorize_document(request, "update"), await read_body(request), merge=True),
        )

    async def delete(self, request: Request) -> Response:
        return json_api.reply(request, self._model.delete(self._authorize_document(request, "delete")))

    async def set(self, request: Request) -> Response:
        setter = request.path_params["setter"]
        if setter not in SETTERS:
            raise unimplemented(setter, "change the document instead.")
        field = SETTERS[setter]
        path = self._authorize_document(request, "update")
        body = await read_body(request)
        if field is None:
            operation = self._model.set_labels(path, body.get("labels"), body.get("labelFingerprint", ""))
        else:
            operation = self._model.change(path, {field: body.get(field)}, merge=True, operation_type=setter)
        return json_api.reply(request, operation)

    async def operation(self, request: Request) -> Response:
        """Return the operation, also for `wait`: every operation is done when it is returned."""
        return json_api.reply(
            request, self._model.operation(f"{self._parent(request)}/operations/{request.path_params['operation']}")
        )

    def _parent(self, request: Request) -> str:
        name = f"projects/{self.project(request)['projectId']}"
        region = request.path_params.get("region")
        return f"{name}/regions/{region}" if region else f"{name}/global"

    def _authorize_collection(self, request: Request, verb: str) -> tuple[str, str]:
        parent, collection = self._parent(request), request.path_params["collection"]
        self.require_permission(request, f"compute.{resource_type_of(parent, collection).permission}.{verb}", parent)
        return parent, collection

    def _authorize_document(self, request: Request, verb: str) -> str:
        parent, collection = self._authorize_collection(request, verb)
        return f"{parent}/{collection}/{request.path_params['name']}"
