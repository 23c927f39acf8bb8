"""Artifact Registry v1 below `/artifactregistry/v1/`: parses and renders; `model.py` decides."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies, policy_from
from mcpfleet_local_cloud.rest import wire
from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.artifactregistry.model import FIELDS, ArtifactRegistry
from mcpfleet_local_cloud.services.auth import Gate

_API: Final = "artifactregistry.googleapis.com"
_LOCATION: Final = "/artifactregistry/v1/projects/{project}/locations/{location}"
_REPOSITORY: Final = _LOCATION + "/repositories/{repository}"


def routes(model: ArtifactRegistry, operations: Operations, gate: Gate, policies: Policies) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, operations, gate, policies)
    return [
        Route(f"{_LOCATION}/repositories", api.create, methods=["POST"]),
        Route(f"{_LOCATION}/repositories", api.list, methods=["GET"]),
        Route(_REPOSITORY + ":getIamPolicy", api.get_policy, methods=["GET"]),
        Route(_REPOSITORY + ":setIamPolicy", api.set_policy, methods=["POST"]),
        Route(_REPOSITORY + ":testIamPermissions", api.test_permissions, methods=["POST"]),
        Route(_REPOSITORY, api.get, methods=["GET"]),
        Route(_REPOSITORY, api.update, methods=["PATCH"]),
        Route(_REPOSITORY, api.delete, methods=["DELETE"]),
        Route(_REPOSITORY + "/dockerImages", api.images, methods=["GET"]),
        Route(_LOCATION + "/operations/{operation}", api.operation, methods=["GET"]),
    ]


class _Api:
    def __init__(self, model: ArtifactRegistry, operations: Operations, gate: Gate, policies: Policies) -> None:
        self._model = model
        self._operations = operations
        self._gate = gate
        self._policies = policies

    async def create(self, request: Request) -> Response:
        project, location = self._location(request, "create")
        repository_id = request.query_params.get("repository_id") or request.query_params.get("repositoryId", "")
        made = self._model.create(project, location, repository_id, await wire.json_object(request, FIELDS))
        return wire.reply(request, self._operations.done(_parent(project, location), made))

    async def list(self, request: Request) -> Response:
        found = self._model.repositories(*self._location(request, "list"))
        return wire.reply(request, {"repositories": found} if found else {})

    async def get(self, request: Request) -> Response:
        return wire.reply(request, self._model.get(self._repository(request, "get")))

    async def update(self, request: Request) -> Response:
        name = self._repository(request, "update")
        mask = [path for path in request.query_params.get("updateMask", "").split(",") if path]
        if not mask:
            raise invalid("updateMask: must name the fields to change.")
        return wire.reply(request, self._model.update(name, await wire.json_object(request, FIELDS), mask))

    async def delete(self, request: Request) -> Response:
        name = self._repository(request, "delete")
        self._model.delete(name)
        self._policies.delete(name)
        return wire.reply(request, self._operations.done(name.partition("/repositories/")[0], {}))

    async def images(self, request: Request) -> Response:
        name = self._name(request)
        self._gate.require(self._gate.caller(request), "artifactregistry.dockerimages.list", name)
        found = self._model.docker_images(name)
        return wire.reply(request, {"dockerImages": found} if found else {})

    async def operation(self, request: Request) -> Response:
        parent = _parent(*self._location(request, "get"))
        return wire.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    async def get_policy(self, request: Request) -> Response:
        name = self._repository(request, "getIamPolicy")
        self._model.get(name)
        return wire.reply(request, self._policies.get(name))

    async def set_policy(self, request: Request) -> Response:
        name = self._repository(request, "setIamPolicy")
        self._model.get(name)
        policy = policy_from(await wire.json_object(request, {"policy", "updateMask"}))
        return wire.reply(request, self._policies.set(name, policy))

    async def test_permissions(self, request: Request) -> Response:
        caller = self._gate.caller(request)
        name = self._name(request)
        self._model.get(name)
        asked = wire.texts(await wire.json_object(request, {"permissions"}), "permissions")
        held = [one for one in asked if self._policies.allows(caller.email, one, name)]
        return wire.reply(request, {"permissions": held} if held else {})

    def _project(self, request: Request) -> str:
        """The id of the project in the path, which may be written as its number; its API must be enabled."""
        self._gate.caller(request)
        project: str = self._gate.project(request.path_params["project"])["projectId"]
        self._gate.require_api(project, _API)
        return project

    def _location(self, request: Request, verb: str) -> tuple[str, str]:
        """The location in the path, where the caller may do *verb* with its repositories."""
        project, location = self._project(request), request.path_params["location"]
        self._allow(request, verb, _parent(project, location))
        return project, location

    def _repository(self, request: Request, verb: str) -> str:
        """The full name of the repository in the path, with which the caller may do *verb*."""
        name = self._name(request)
        self._allow(request, verb, name)
        return name

    def _name(self, request: Request) -> str:
        parent = _parent(self._project(request), request.path_params["location"])
        return f"{parent}/repositories/{request.path_params['repository']}"

    def _allow(self, request: Request, verb: str, resource: str) -> None:
        self._gate.require(self._gate.caller(request), f"artifactregistry.repositories.{verb}", resource)


def _parent(project: str, location: str) -> str:
    return f"projects/{project}/locations/{location}"
