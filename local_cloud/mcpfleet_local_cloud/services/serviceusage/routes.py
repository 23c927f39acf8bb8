"""Service Usage at `/serviceusage/v1/` and `/v1beta1/` (the provider calls one and polls the other)."""

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
_TYPES: Final = "type.googleapis.com/google.api.serviceusage.v1."
# Google answers a call that changes nothing with this operation.
_NOOP: Final = "operations/noop.DONE_OPERATION"
_TYPES_BETA: Final = "type.googleapis.com/google.api.serviceusage.v1beta1."
AGENTS: Final = {
    "artifactregistry.googleapis.com": "gcp-sa-artifactregistry",
    "cloudbuild.googleapis.com": "gcp-sa-cloudbuild",
    "iap.googleapis.com": "gcp-sa-iap",
    "run.googleapis.com": "serverless-robot-prod",
    "secretmanager.googleapis.com": "gcp-sa-secretmanager",
}
"""The accounts that Google makes for its APIs in a project, by API (cloud.google.com/iam/docs/service-agents)."""
_STATES: Final = {"state:ENABLED": "ENABLED", "state:DISABLED": "DISABLED"}


def routes(model: ServiceUsage, operations: Operations, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, operations, gate)
    made: list[BaseRoute] = []
    for version in ("v1", "v1beta1"):
        services = f"/serviceusage/{version}/projects/{{project}}/services"
        made += [
            Route(f"{services}:batchEnable", api.batch_enable, methods=["POST"]),
            Route(f"{services}/{{service}}:enable", api.enable, methods=["POST"]),
            Route(f"{services}/{{service}}:disable", api.disable, methods=["POST"]),
            Route(f"{services}/{{service}}", api.get, methods=["GET"]),
            Route(services, api.list, methods=["GET"]),
            Route(f"/serviceusage/{version}/operations/{{operation}}", api.operation, methods=["GET"]),
        ]
    identity = "/serviceusage/v1beta1/projects/{project}/services/{service}:generateServiceIdentity"
    return [Route(identity, api.identity, methods=["POST"]), *made]


class _Api(Handlers):
    def __init__(self, model: ServiceUsage, operations: Operations, gate: ApiAuthorizer) -> None:
        super().__init__(gate, API)
        self._model = model
        self._operations = operations

    async def list(self, request: Request) -> Response:
        project = self._allow(request, "list")
        wanted = request.query_params.get("filter")
        if wanted and wanted not in _STATES:
            raise invalid(f"Invalid filter {wanted!r}: state:ENABLED and state:DISABLED are supported.")
        found = sorted(self._model.list(project, _STATES[wanted] if wanted else None), key=lambda one: one["name"])
        return json_api.reply(request, json_api.list_page(request, "services", found, default=50, maximum=200))

    async def get(self, request: Request) -> Response:
        project = self._allow(request, "get")
        return json_api.reply(request, self._model.get(project, request.path_params["service"]))

    async def enable(self, request: Request) -> Response:
        project = self._allow(request, "enable")
        service: str = request.path_params["service"]
        await read_body(request)
        changed = self._model.enable(project, [service])
        return self._done(request, changed, "EnableServiceResponse", {"service": self._model.get(project, service)})

    async def batch_enable(self, request: Request) -> Response:
        project = self._allow(request, "enable")
        apis: list[str] = (await read_body(request)).get("serviceIds", [])
        changed = self._model.enable(project, apis)
        services = [self._model.get(project, api) for api in apis]
        return self._done(request, changed, "BatchEnableServicesResponse", {"services": services})

    async def disable(self, request: Request) -> Response:
        project = self._allow(request, "disable")
        service: str = request.path_params["service"]
        body = await read_body(request)
        # No API here depends on another, and what an API made keeps running when it is disabled: as Google's SKIP.
        if body.get("checkIfServiceHasUsage") == "CHECK":
            raise unimplemented("checkIfServiceHasUsage", "nothing is counted here; use SKIP.")
        changed = self._model.disable(project, service)
        return self._done(request, changed, "DisableServiceResponse", {"service": self._model.get(project, service)})

    async def identity(self, request: Request) -> Response:
        project = self._allow(request, "enable")
        service: str = request.path_params["service"]
        await read_body(request)
        self._model.get(project, service)
        agent = AGENTS.get(service)
        if agent is None:
            raise unimplemented(service, "its agent is not known here; none of what it does is either.")
        email = f"service-{project['projectNumber']}@{agent}.iam.gserviceaccount.com"
        made: Document = {
            "@type": "type.googleapis.com/google.api.serviceusage.v1beta1.ServiceIdentity",
            "email": email,
        }
        return json_api.reply(
            request, self._operations.add_finished("", made, {"@type": _TYPES_BETA + "OperationMetadata"})
        )

    async def operation(self, request: Request) -> Response:
        self.caller(request)
        name = f"operations/{request.path_params['operation']}"
        noop = {"name": _NOOP, "done": True, "response": {"@type": EMPTY}}
        return json_api.reply(request, noop if name == _NOOP else self._operations.get(name))

    def _done(self, request: Request, changed: bool, kind: str, response: Document) -> Response:
        typed: Document = {"@type": _TYPES + kind, **response}
        if not changed:
            return json_api.reply(request, {"name": _NOOP, "done": True, "response": typed})
        return json_api.reply(
            request, self._operations.add_finished("", typed, {"@type": _TYPES + "OperationMetadata"})
        )

    def _allow(self, request: Request, verb: str) -> Document:
        project = self.project(request)
        self.allow(request, f"serviceusage.services.{verb}", f"projects/{project['projectId']}")
        return project
