"""Cloud Run Admin API v2 over HTTP: parses, asks whether the caller may, renders. `model.RunModel` decides."""

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
from mcpfleet_local_cloud.services.run.model import PatchOptions, RunModel
from mcpfleet_local_cloud.services.run.places import Location
from mcpfleet_local_cloud.services.run.quantities import seconds
from mcpfleet_local_cloud.state.store import Document

_API: Final = "run.googleapis.com"
_PROJECT: Final = "/run/v2/projects/{project}"
_LOCATION: Final = _PROJECT + "/locations/{location}"
_SERVICE: Final = _LOCATION + "/services/{service}"
_REVISION: Final = _SERVICE + "/revisions/{revision}"
_OPERATION: Final = _LOCATION + "/operations/{operation}"
# Below what clients allow one request (the provider: 120 s).
_LONGEST_WAIT: Final = 60.0


def routes(model: RunModel, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    services, others = _Services(model, gate), _Others(model, gate)
    return [
        Route(_LOCATION + "/services", services.create, methods=["POST"]),
        Route(_LOCATION + "/services", services.list, methods=["GET"]),
        *PolicyMethods(services.named, model.policies, gate).routes(_SERVICE),
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
    def __init__(self, model: RunModel, gate: ApiAuthorizer) -> None:
        self._model = model
        self._gate = gate

    def _enter(self, request: Request) -> tuple[str, Location]:
        """The caller, and the place of the request, where Cloud Run is enabled."""
        caller = self._gate.caller(request)
        project, number = self._project(request)
        return caller.email, Location(project=project, number=number, region=request.path_params["location"])

    def _project(self, request: Request) -> tuple[str, int]:
        """Id and number of the project that the path names by either."""
        named = request.path_params["project"]
        if named == "-":
            raise invalid("Project '-' is not allowed: name one project.")
        project = self._gate.project(named)
        self._gate.require_api(project["projectId"], _API)
        return project["projectId"], int(project["projectNumber"])

    def _allow(self, request: Request, permission: str, resource: str) -> None:
        self._gate.require(self._gate.caller(request), permission, resource)


class _Services(_Handlers):
    async def create(self, request: Request) -> Response:
        caller, place = self._enter(request)
        service_id = request.query_params.get("serviceId", "")
        self._allow(request, "run.services.create", place.service(service_id) if service_id else str(place))
        service = await read_body(request)
        done = self._model.create(place, service_id, service, caller, validate_only=_flag(request, "validateOnly"))
        return json_api.reply(request, done)

    async def list(self, request: Request) -> Response:
        _, place = self._enter(request)
        self._allow(request, "run.services.list", str(place))
        return json_api.reply(request, _page(request, "services", self._model.services(place)))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._permitted(request, "get")))

    async def patch(self, request: Request) -> Response:
        caller, place = self._enter(request)
        options = PatchOptions(
            mask=request.query_params.get("updateMask", ""),
            allow_missing=_flag(request, "allowMissing"),
            validate_only=_flag(request, "validateOnly"),
            force_new_revision=_flag(request, "forceNewRevision"),
        )
        service_id = request.path_params["service"]
        for permission in ("update", "create") if options.allow_missing else ("update",):
            self._allow(request, f"run.services.{permission}", place.service(service_id))
        service = await read_body(request)
        return json_api.reply(request, self._model.patch(place, service_id, service, caller, options))

    async def delete(self, request: Request) -> Response:
        name = self._permitted(request, "delete")
        etag = request.query_params.get("etag", "")
        return json_api.reply(request, self._model.delete(name, etag, validate_only=_flag(request, "validateOnly")))

    def named(self, request: Request, verb: str) -> str:
        """The full name of the path's service, where the caller may do *verb* to it; it exists."""
        name = (
            self._permitted(request, verb) if verb else self._enter(request)[1].service(request.path_params["service"])
        )
        self._model.check_exists(name)
        return name

    def _permitted(self, request: Request, verb: str) -> str:
        """The full name of the path's service, where the caller may do *verb* to it."""
        name = self._name(request)
        self._allow(request, f"run.services.{verb}", name)
        return name

    def _name(self, request: Request) -> str:
        return self._enter(request)[1].service(request.path_params["service"])


class _Others(_Handlers):
    async def revisions(self, request: Request) -> Response:
        _, place = self._enter(request)
        parent = place.service(request.path_params["service"])
        self._allow(request, "run.revisions.list", str(place) if parent.endswith("/-") else parent)
        return json_api.reply(request, _page(request, "revisions", self._model.revisions(parent)))

    async def revision(self, request: Request) -> Response:
        return json_api.reply(request, self._model.revision(self._permitted(request, "get")))

    async def delete_revision(self, request: Request) -> Response:
        name = self._permitted(request, "delete")
        etag = request.query_params.get("etag", "")
        return json_api.reply(
            request, self._model.delete_revision(name, etag, validate_only=_flag(request, "validateOnly"))
        )

    async def operations(self, request: Request) -> Response:
        _, place = self._enter(request)
        self._allow(request, "run.operations.list", str(place))
        found = [one for one in self._model.operations.list(str(place)) if _ours(one)]
        return json_api.reply(request, _page(request, "operations", found))

    async def operation(self, request: Request) -> Response:
        return json_api.reply(request, self._operation(request))

    async def wait(self, request: Request) -> Response:
        name = self._operation(request)["name"]
        asked = (await read_body(request)).get("timeout")
        limit = _LONGEST_WAIT if asked is None else min(max(seconds(asked), 0), _LONGEST_WAIT)
        return json_api.reply(request, await self._model.operations.wait(name, limit))

    def _operation(self, request: Request) -> Document:
        _, place = self._enter(request)
        name = f"{place}/operations/{request.path_params['operation']}"
        self._allow(request, "run.operations.get", str(place))
        found = self._model.operations.get(name)
        if not _ours(found):
            raise not_found(name)
        return found

    def _permitted(self, request: Request, verb: str) -> str:
        _, place = self._enter(request)
        service = place.service(request.path_params["service"])
        name = f"{service}/revisions/{request.path_params['revision']}"
        self._allow(request, f"run.revisions.{verb}", name)
        return name


def _ours(operation: Document) -> bool:
    """Whether an operation is Cloud Run's: the cloud's other APIs keep theirs beside them."""
    holders = (operation["metadata"], operation.get("response", {}))
    return any("google.cloud.run" in holder.get("@type", "") for holder in holders)


def _flag(request: Request, name: str) -> bool:
    return request.query_params.get(name) == "true"


def _page(request: Request, field: str, found: Sequence[Document]) -> Document:
    return json_api.list_page(request, field, found, default=100, maximum=1000)
