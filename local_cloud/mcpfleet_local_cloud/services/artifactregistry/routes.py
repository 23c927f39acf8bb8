"""The HTTP layer of Artifact Registry v1 at `/artifactregistry/v1/`; `model.py` has the logic."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.masks import find_masked_fields
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.artifactregistry.model import ArtifactRegistry
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers, PolicyMethods

_API: Final = "artifactregistry.googleapis.com"
_LOCATION: Final = "/artifactregistry/v1/projects/{project}/locations/{location}"
_REPOSITORY: Final = _LOCATION + "/repositories/{repository}"
_PAGE_SIZE: Final = 1000


def routes(
    model: ArtifactRegistry, operations: Operations, authorizer: ApiAuthorizer, policies: Policies
) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, operations, authorizer, policies)
    return [
        Route(f"{_LOCATION}/repositories", api.create, methods=["POST"]),
        Route(f"{_LOCATION}/repositories", api.list, methods=["GET"]),
        *PolicyMethods(api.resource_name, policies, authorizer).routes(_REPOSITORY),
        Route(_REPOSITORY, api.get, methods=["GET"]),
        Route(_REPOSITORY, api.update, methods=["PATCH"]),
        Route(_REPOSITORY, api.delete, methods=["DELETE"]),
        Route(_REPOSITORY + "/dockerImages", api.images, methods=["GET"]),
        Route(_LOCATION + "/operations/{operation}", api.operation, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(
        self, model: ArtifactRegistry, operations: Operations, authorizer: ApiAuthorizer, policies: Policies
    ) -> None:
        super().__init__(authorizer, _API)
        self._model = model
        self._operations = operations
        self._policies = policies

    def resource_name(self, request: Request, verb: str) -> str:
        """Return the full name of the path's existing repository; the caller needs the permission for *verb*."""
        name = self._authorize_repository(request, verb) if verb else self._name(request)
        self._model.get(name)
        return name

    async def create(self, request: Request) -> Response:
        parent = self._authorize_location(request, "create")
        repository_id = request.query_params.get("repositoryId", "")
        _, project, _, location = parent.split("/")
        repository = self._model.create(project, location, repository_id, await read_body(request))
        return self.reply_finished(request, self._operations, parent, "Repository", repository)

    async def list(self, request: Request) -> Response:
        _, project, _, location = self._authorize_location(request, "list").split("/")
        repositories = self._model.repositories(project, location)
        return json_api.reply(
            request, json_api.list_page(request, "repositories", repositories, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._authorize_repository(request, "get")))

    async def update(self, request: Request) -> Response:
        name = self._authorize_repository(request, "update")
        if not request.query_params.get("updateMask"):
            raise invalid("update_mask: must name the fields to change.")
        body = await read_body(request)
        return json_api.reply(request, self._model.update(name, body, find_masked_fields(request, body)))

    async def delete(self, request: Request) -> Response:
        name = self._authorize_repository(request, "delete")
        self._model.delete(name)
        self._policies.delete(name)
        return self.reply_finished(request, self._operations, name.partition("/repositories/")[0])

    async def images(self, request: Request) -> Response:
        name = self._name(request)
        self.require_permission(request, "artifactregistry.dockerimages.list", name)
        images = self._model.docker_images(name)
        return json_api.reply(
            request, json_api.list_page(request, "dockerImages", images, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        )

    async def operation(self, request: Request) -> Response:
        parent = self._authorize_location(request, "get")
        return json_api.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    def _authorize_location(self, request: Request, verb: str) -> str:
        """Return the location in the path; the caller needs the permission for *verb* on its repositories."""
        parent = self.parent(request)
        self._require(request, verb, parent)
        return parent

    def _authorize_repository(self, request: Request, verb: str) -> str:
        """Return the full name of the repository in the path; the caller needs the permission for *verb*."""
        name = self._name(request)
        self._require(request, verb, name)
        return name

    def _name(self, request: Request) -> str:
        return f"{self.parent(request)}/repositories/{request.path_params['repository']}"

    def _require(self, request: Request, verb: str, resource: str) -> None:
        self.require_permission(request, f"artifactregistry.repositories.{verb}", resource)
