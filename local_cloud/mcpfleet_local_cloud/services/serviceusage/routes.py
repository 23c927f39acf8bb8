"""Service Usage at `/serviceusage/v1/` and `/v1beta1/` (the provider calls one version and polls the other)."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid, unimplemented
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import EMPTY, Handlers
from mcpfleet_local_cloud.services.serviceusage.model import ServiceUsage
from mcpfleet_local_cloud.state.store import Document

API: Final = "serviceusage.googleapis.com"
_TYPE_PREFIX: Final = "type.googleapis.com/google.api.serviceusage.v1."
# Google returns this operation for a call that changes nothing.
_NOOP: Final = "operations/noop.DONE_OPERATION"
_BETA_TYPE_PREFIX: Final = "type.googleapis.com/google.api.serviceusage.v1beta1."
AGENTS: Final = {
    "artifactregistry.googleapis.com": "gcp-sa-artifactregistry",
    "cloudbuild.googleapis.com": "gcp-sa-cloudbuild",
    "iap.googleapis.com": "gcp-sa-iap",
    "run.googleapis.com": "serverless-robot-prod",
    "secretmanager.googleapis.com": "gcp-sa-secretmanager",
}
"""The accounts that Google creates for its APIs in a project, by API (cloud.google.com/iam/docs/service-agents)."""
_STATES: Final = {"state:ENABLED": "ENABLED", "state:DISABLED": "DISABLED"}


def routes(model: ServiceUsage, operations: Operations, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, operations, authorizer)
    api_routes: list[BaseRoute] = []
    for version in ("v1", "v1beta1"):
        services = f"/serviceusage/{version}/projects/{{project}}/services"
        api_routes += [
            Route(f"{services}:batchEnable", api.batch_enable, methods=["POST"]),
            Route(f"{services}/{{service}}:enable", api.enable, methods=["POST"]),
            Route(f"{services}/{{service}}:disable", api.disable, methods=["POST"]),
            Route(f"{services}/{{service}}", api.get, methods=["GET"]),
            Route(services, api.list, methods=["GET"]),
            Route(f"/serviceusage/{version}/operations/{{operation}}", api.operation, methods=["GET"]),
        ]
    identity = "/serviceusage/v1beta1/projects/{project}/services/{service}:generateServiceIdentity"
    return [Route(identity, api.identity, methods=["POST"]), *api_routes]


class _Api(Handlers):
    def __init__(self, model: ServiceUsage, operations: Operations, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._operations = operations

    async def list(self, request: Request) -> Response:
        project = self._authorize(request, "list")
        filter_text = request.query_params.get("filter")
        if filter_text and filter_text not in _STATES:
            raise invalid(f"Invalid filter {filter_text!r}: state:ENABLED and state:DISABLED are supported.")
        services = sorted(
            self._model.list(project, _STATES[filter_text] if filter_text else None),
            key=lambda service: service["name"],
        )
        return json_api.reply(request, json_api.list_page(request, "services", services, default=50, maximum=200))

    async def get(self, request: Request) -> Response:
        project = self._authorize(request, "get")
        return json_api.reply(request, self._model.get(project, request.path_params["service"]))

    async def enable(self, request: Request) -> Response:
        project = self._authorize(request, "enable")
        service: str = request.path_params["service"]
        await read_body(request)
        changed = self._model.enable(project, [service])
        return self._reply_operation(
            request, changed, "EnableServiceResponse", {"service": self._model.get(project, service)}
        )

    async def batch_enable(self, request: Request) -> Response:
        project = self._authorize(request, "enable")
        apis: list[str] = (await read_body(request)).get("serviceIds", [])
        changed = self._model.enable(project, apis)
        services = [self._model.get(project, api) for api in apis]
        return self._reply_operation(request, changed, "BatchEnableServicesResponse", {"services": services})

    async def disable(self, request: Request) -> Response:
        project = self._authorize(request, "disable")
        service: str = request.path_params["service"]
        body = await read_body(request)
        # No API here depends on another, and an API's resources keep running when it is disabled, as with SKIP on
        # Google.
        if body.get("checkIfServiceHasUsage") == "CHECK":
            raise unimplemented("checkIfServiceHasUsage", "usage is not recorded here; use SKIP.")
        changed = self._model.disable(project, service)
        return self._reply_operation(
            request, changed, "DisableServiceResponse", {"service": self._model.get(project, service)}
        )

    async def identity(self, request: Request) -> Response:
        project = self._authorize(request, "enable")
        service: str = request.path_params["service"]
        await read_body(request)
        self._model.get(project, service)
        agent = AGENTS.get(service)
        if agent is None:
            raise unimplemented(service, "there is no service agent for this API here.")
        email = f"service-{project['projectNumber']}@{agent}.iam.gserviceaccount.com"
        service_identity: Document = {
            "@type": "type.googleapis.com/google.api.serviceusage.v1beta1.ServiceIdentity",
            "email": email,
        }
        return json_api.reply(
            request,
            self._operations.add_finished("", service_identity, {"@type": _BETA_TYPE_PREFIX + "OperationMetadata"}),
        )

    async def operation(self, request: Request) -> Response:
        self.authenticate(request)
        name = f"operations/{request.path_params['operation']}"
        noop = {"name": _NOOP, "done": True, "response": {"@type": EMPTY}}
        return json_api.reply(request, noop if name == _NOOP else self._operations.get(name))

    def _reply_operation(self, request: Request, changed: bool, kind: str, response: Document) -> Response:
        typed: Document = {"@type": _TYPE_PREFIX + kind, **response}
        if not changed:
            return json_api.reply(request, {"name": _NOOP, "done": True, "response": typed})
        return json_api.reply(
            request, self._operations.add_finished("", typed, {"@type": _TYPE_PREFIX + "OperationMetadata"})
        )

    def _authorize(self, request: Request, verb: str) -> Document:
        project = self.project(request)
        self.require_permission(request, f"serviceusage.services.{verb}", f"projects/{project['projectId']}")
        return project
