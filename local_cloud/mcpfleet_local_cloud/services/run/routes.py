"""The HTTP layer of Cloud Run Admin API v2, with permission checks; `model.RunModel` has the logic."""

from collections.abc import Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid, not_found
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import PolicyMethods
from mcpfleet_local_cloud.services.run.locations import Location
from mcpfleet_local_cloud.services.run.model import PatchOptions, RunModel
from mcpfleet_local_cloud.services.run.quantities import parse_seconds
from mcpfleet_local_cloud.state.store import Document

_API: Final = "run.googleapis.com"
_PROJECT: Final = "/run/v2/projects/{project}"
_LOCATION: Final = _PROJECT + "/locations/{location}"
_SERVICE: Final = _LOCATION + "/services/{service}"
_REVISION: Final = _SERVICE + "/revisions/{revision}"
_OPERATION: Final = _LOCATION + "/operations/{operation}"
# In seconds; less than the timeout of clients for one request (the provider's is 120 s).
_MAX_WAIT_SECONDS: Final = 60.0


def routes(model: RunModel, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    services, others = _Services(model, authorizer), _RevisionsAndOperations(model, authorizer)
    return [
        Route(_LOCATION + "/services", services.create, methods=["POST"]),
        Route(_LOCATION + "/services", services.list, methods=["GET"]),
        *PolicyMethods(services.resource_name, model.policies, authorizer).routes(_SERVICE),
        Route(_SERVICE, services.get, methods=["GET"]),
        Route(_SERVICE, services.patch, methods=["PATCH"]),
        Route(_SERVICE, services.delete, methods=["DELETE"]),
        Route(_SERVICE + "/revisions", others.revisions, methods=["GET"]),
        Route(_REVISION, others.revision, methods=["GET"]),
        Route(_REVISION, others.delete_revision, methods=["DELETE"]),
        Route(_LOCATION + "/operations", others.operations, methods=["GET"]),
        Route(_OPERATION + ":wait", others.wait, methods=["POST"]),
        Route(_OPERATION, others.operation, methods=["GET"]),
    ]


class _Handlers:
    def __init__(self, model: RunModel, authorizer: ApiAuthorizer) -> None:
        self._model = model
        self._authorizer = authorizer

    def _authenticate(self, request: Request) -> tuple[str, Location]:
        """Return the caller's address and the location of the request, after a check that Cloud Run is enabled."""
        caller = self._authorizer.authenticate(request)
        project, number = self._project(request)
        return caller.email, Location(project=project, number=number, region=request.path_params["location"])

    def _project(self, request: Request) -> tuple[str, int]:
        """Return id and number of the project in the path, which may be either."""
        id_or_number = request.path_params["project"]
        if id_or_number == "-":
            raise invalid("Project '-' is not allowed: name one project.")
        project = self._authorizer.find_project(id_or_number)
        self._authorizer.require_api(project["projectId"], _API)
        return project["projectId"], int(project["projectNumber"])

    def _require_permission(self, request: Request, permission: str, resource: str) -> None:
        self._authorizer.require(self._authorizer.authenticate(request), permission, resource)


class _Services(_Handlers):
    async def create(self, request: Request) -> Response:
        caller, location = self._authenticate(request)
        service_id = request.query_params.get("serviceId", "")
        self._require_permission(
            request, "run.services.create", location.service_name(service_id) if service_id else str(location)
        )
        service = await read_body(request)
        operation = self._model.create(
            location, service_id, service, caller, validate_only=_read_flag(request, "validateOnly")
        )
        return json_api.reply(request, operation)

    async def list(self, request: Request) -> Response:
        _, location = self._authenticate(request)
        self._require_permission(request, "run.services.list", str(location))
        return json_api.reply(request, _page(request, "services", self._model.services(location)))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._authorize(request, "get")))

    async def patch(self, request: Request) -> Response:
        caller, location = self._authenticate(request)
        options = PatchOptions(
            mask=request.query_params.get("updateMask", ""),
            allow_missing=_read_flag(request, "allowMissing"),
            validate_only=_read_flag(request, "validateOnly"),
            force_new_revision=_read_flag(request, "forceNewRevision"),
        )
        service_id = request.path_params["service"]
        for permission in ("update", "create") if options.allow_missing else ("update",):
            self._require_permission(request, f"run.services.{permission}", location.service_name(service_id))
        service = await read_body(request)
        return json_api.reply(request, self._model.patch(location, service_id, service, caller, options))

    async def delete(self, request: Request) -> Response:
        name = self._authorize(request, "delete")
        etag = request.query_params.get("etag", "")
        return json_api.reply(
            request, self._model.delete(name, etag, validate_only=_read_flag(request, "validateOnly"))
        )

    def resource_name(self, request: Request, verb: str) -> str:
        """Return the full name of the path's service, which must exist; the caller needs the permission for *verb*."""
        name = (
            self._authorize(request, verb)
            if verb
            else self._authenticate(request)[1].service_name(request.path_params["service"])
        )
        self._model.check_exists(name)
        return name

    def _authorize(self, request: Request, verb: str) -> str:
        """Return the full name of the path's service; the caller needs the permission for *verb*."""
        name = self._name(request)
        self._require_permission(request, f"run.services.{verb}", name)
        return name

    def _name(self, request: Request) -> str:
        return self._authenticate(request)[1].service_name(request.path_params["service"])


class _RevisionsAndOperations(_Handlers):
    async def revisions(self, request: Request) -> Response:
        _, location = self._authenticate(request)
        parent = location.service_name(request.path_params["service"])
        self._require_permission(request, "run.revisions.list", str(location) if parent.endswith("/-") else parent)
        return json_api.reply(request, _page(request, "revisions", self._model.revisions(parent)))

    async def revision(self, request: Request) -> Response:
        return json_api.reply(request, self._model.revision(self._authorize(request, "get")))

    async def delete_revision(self, request: Request) -> Response:
        name = self._authorize(request, "delete")
        etag = request.query_params.get("etag", "")
        return json_api.reply(
            request, self._model.delete_revision(name, etag, validate_only=_read_flag(request, "validateOnly"))
        )

    async def operations(self, request: Request) -> Response:
        _, location = self._authenticate(request)
        self._require_permission(request, "run.operations.list", str(location))
        operations = [
            operation for operation in self._model.operations.list(str(location)) if _is_run_operation(operation)
        ]
        return json_api.reply(request, _page(request, "operations", operations))

    async def operation(self, request: Request) -> Response:
        return json_api.reply(request, self._authorize_operation(request))

    async def wait(self, request: Request) -> Response:
        name = self._authorize_operation(request)["name"]
        timeout = (await read_body(request)).get("timeout")
        limit = _MAX_WAIT_SECONDS if timeout is None else min(max(parse_seconds(timeout), 0), _MAX_WAIT_SECONDS)
        return json_api.reply(request, await self._model.operations.wait(name, limit))

    def _authorize_operation(self, request: Request) -> Document:
        _, location = self._authenticate(request)
        name = f"{location}/operations/{request.path_params['operation']}"
        self._require_permission(request, "run.operations.get", str(location))
        operation = self._model.operations.get(name)
        if not _is_run_operation(operation):
            raise not_found(name)
        return operation

    def _authorize(self, request: Request, verb: str) -> str:
        _, location = self._authenticate(request)
        service = location.service_name(request.path_params["service"])
        name = f"{service}/revisions/{request.path_params['revision']}"
        self._require_permission(request, f"run.revisions.{verb}", name)
        return name


def _is_run_operation(operation: Document) -> bool:
    """Whether an operation is Cloud Run's: other APIs of this cloud use the same store."""
    messages = (operation["metadata"], operation.get("response", {}))
    return any("google.cloud.run" in message.get("@type", "") for message in messages)


def _read_flag(request: Request, name: str) -> bool:
    return request.query_params.get(name) == "true"


def _page(request: Request, field: str, items: Sequence[Document]) -> Document:
    return json_api.list_page(request, field, items, default=100, maximum=1000)
