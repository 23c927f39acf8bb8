"""Workload identity pools of IAM v1, at `/iam/v1/projects/{project}/locations/global/`."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.services.iam.pools import POOL, PROVIDER, Pools
from mcpfleet_local_cloud.state.store import Document

API: Final = "iam.googleapis.com"
_POOLS: Final = "/iam/v1/projects/{project}/locations/{location}/workloadIdentityPools"
_PROVIDERS: Final = _POOLS + "/{pool}/providers"
_METADATA: Final = "type.googleapis.com/google.iam.v1.WorkloadIdentityPoolOperationMetadata"
_TYPE: Final = {
    POOL: "type.googleapis.com/google.iam.v1.WorkloadIdentityPool",
    PROVIDER: "type.googleapis.com/google.iam.v1.WorkloadIdentityPoolProvider",
}


def routes(model: Pools, operations: Operations, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api_routes: list[BaseRoute] = []
    for kind, path in ((POOL, _POOLS), (PROVIDER, _PROVIDERS)):
        api = _Api(kind, model, operations, authorizer)
        item_path = f"{path}/{{{api.path_parameter}}}"
        api_routes += [
            Route(path, api.create, methods=["POST"]),
            Route(path, api.list, methods=["GET"]),
            Route(f"{item_path}/operations/{{operation}}", api.operation, methods=["GET"]),
            Route(f"{item_path}:undelete", api.undelete, methods=["POST"]),
            Route(item_path, api.get, methods=["GET"]),
            Route(item_path, api.update, methods=["PATCH"]),
            Route(item_path, api.delete, methods=["DELETE"]),
        ]
    return api_routes


class _Api(Handlers):
    def __init__(self, kind: str, model: Pools, operations: Operations, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._kind = kind
        self._model = model
        self._operations = operations
        self.path_parameter = "pool" if kind == POOL else "provider"

    async def create(self, request: Request) -> Response:
        parent = self._authorize(request, "create")
        resource_id = request.query_params.get(f"{self._kind}Id", "")
        body = await read_body(request)
        return self._reply_finished(request, self._model.create(self._kind, f"{parent}{resource_id}", body))

    async def list(self, request: Request) -> Response:
        parent = self._authorize(request, "list").rstrip("/")
        resources = self._model.list(
            self._kind, parent, include_deleted=request.query_params.get("showDeleted") == "true"
        )
        field = "workloadIdentityPools" if self._kind == POOL else "workloadIdentityPoolProviders"
        return json_api.reply(request, json_api.list_page(request, field, resources, default=50, maximum=1000))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._kind, self._authorize(request, "get")))

    async def update(self, request: Request) -> Response:
        name = self._authorize(request, "update")
        mask = request.query_params.get("updateMask", "")
        return self._reply_finished(request, self._model.update(self._kind, name, await read_body(request), mask))

    async def delete(self, request: Request) -> Response:
        return self._reply_finished(request, self._model.delete(self._kind, self._authorize(request, "delete")))

    async def undelete(self, request: Request) -> Response:
        name = self._authorize(request, "undelete")
        await read_body(request)
        return self._reply_finished(request, self._model.undelete(self._kind, name))

    async def operation(self, request: Request) -> Response:
        name = self._authorize(request, "get")
        return json_api.reply(request, self._operations.get(f"{name}/operations/{request.path_params['operation']}"))

    def _authorize(self, request: Request, verb: str) -> str:
        """Check the permission; return the full name of the path's resource (or the parent and `/`)."""
        project = self.project(request)
        if request.path_params["location"] != "global":
            raise invalid("parent: the location of a pool is global.")
        self.require_permission(request, f"iam.{self._kind}s.{verb}", f"projects/{project['projectId']}")
        name = f"projects/{project['projectNumber']}/locations/global/workloadIdentityPools/"
        if self._kind == PROVIDER:
            name += f"{request.path_params['pool']}/providers/"
            if verb in ("create", "list"):
                self._model.get(POOL, name.partition("/providers/")[0])
        return name + request.path_params.get(self.path_parameter, "")

    def _reply_finished(self, request: Request, resource: Document) -> Response:
        operation = self._operations.add_finished(
            resource["name"], {"@type": _TYPE[self._kind], **resource}, {"@type": _METADATA}
        )
        return json_api.reply(request, operation)
