"""Cloud Build v1 at `/cloudbuild/v1/`: builds of a project, with or without a location in the path."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, not_found
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.cloudbuild.model import Builds, build_id_of, new_id, operation_of
from mcpfleet_local_cloud.services.cloudbuild.validation import parse_build
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.services.run.locations import REGIONS
from mcpfleet_local_cloud.state.store import Document

API: Final = "cloudbuild.googleapis.com"
_PROJECT: Final = "/cloudbuild/v1/projects/{project}"
_PAGE_SIZE: Final = 100


def routes(model: Builds, accounts: ServiceAccounts, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, accounts, authorizer)
    api_routes: list[BaseRoute] = []
    for parent in (_PROJECT, _PROJECT + "/locations/{location}"):
        api_routes += [
            Route(parent + "/builds", api.create, methods=["POST"]),
            Route(parent + "/builds", api.list, methods=["GET"]),
            Route(parent + "/builds/{build}", api.get, methods=["GET"]),
            Route(parent + "/builds/{build}:cancel", api.cancel, methods=["POST"]),
        ]
    location = _PROJECT + "/locations/{location}"
    return [
        *reversed(api_routes),  # the longer path first: `{build}` would match `ID:cancel`
        Route(location + "/operations/{operation}", api.operation, methods=["GET"]),
        Route(location + "/operations/{operation}:cancel", api.cancel_operation, methods=["POST"]),
    ]


class _Api(Handlers):
    def __init__(self, model: Builds, accounts: ServiceAccounts, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._accounts = accounts

    async def create(self, request: Request) -> Response:
        project, parent = self.project(request), self.parent(request)
        location = parent.rpartition("/")[2]
        self.require_permission(request, "cloudbuild.builds.create", f"projects/{project['projectId']}")
        body = await read_body(request)
        build_id = new_id()
        values = {
            "PROJECT_ID": str(project["projectId"]),
            "PROJECT_NUMBER": str(project["projectNumber"]),
            "LOCATION": location,
            "BUILD_ID": build_id,
        }
        build_request = parse_build(body, values)
        self._require_act_as(request, str(project["projectId"]), build_request.account)
        build = self._model.start(project, location, body, build_request, build_id)
        return json_api.reply(request, operation_of(f"{parent}/builds/{build_id}", build))

    async def list(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "cloudbuild.builds.list", f"projects/{parent.split('/')[1]}")
        builds = sorted(self._model.list(parent), key=_id)
        return json_api.reply(
            request, json_api.list_page(request, "builds", builds, default=_PAGE_SIZE, maximum=1000, key=_id)
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._authorize_build(request, "get")))

    async def cancel(self, request: Request) -> Response:
        name = self._authorize_build(request, "update")
        await read_body(request)
        return json_api.reply(request, await self._model.cancel(name))

    async def operation(self, request: Request) -> Response:
        return json_api.reply(request, self._model.operation(self._authorize_operation(request, "get")))

    async def cancel_operation(self, request: Request) -> Response:
        name = self._authorize_operation(request, "update")
        await read_body(request)
        await self._model.cancel(name)
        return json_api.reply(request, {})

    def parent(self, request: Request) -> str:
        """Return `projects/ID/locations/L`; a path without a location means `global`."""
        location = request.path_params.get("location", "global")
        if location not in (*REGIONS, "global"):
            raise not_found(f"projects/{request.path_params['project']}/locations/{location}")
        return f"projects/{self.project(request)['projectId']}/locations/{location}"

    def _require_act_as(self, request: Request, project: str, account: str) -> None:
        account_document = self._accounts.find("-", account)
        name = f"projects/{account_document['projectId']}/serviceAccounts/{account_document['email']}"
        if account_document["projectId"] != project:
            raise GoogleError("UNIMPLEMENTED", f"build.serviceAccount: {name} is of another project than the build.")
        try:
            self.require_permission(request, "iam.serviceAccounts.actAs", name)
        except GoogleError:
            raise GoogleError(
                "PERMISSION_DENIED", f"caller does not have permission to act as service account {name}"
            ) from None
        if account_document.get("disabled"):
            raise GoogleError("FAILED_PRECONDITION", f"service account {name} is disabled")

    def _authorize_build(self, request: Request, verb: str) -> str:
        parent = self.parent(request)
        self.require_permission(request, f"cloudbuild.builds.{verb}", f"projects/{parent.split('/')[1]}")
        return f"{parent}/builds/{request.path_params['build']}"

    def _authorize_operation(self, request: Request, verb: str) -> str:
        parent = self.parent(request)
        self.require_permission(request, f"cloudbuild.builds.{verb}", f"projects/{parent.split('/')[1]}")
        build_id = build_id_of(request.path_params["operation"])
        if not build_id:
            raise not_found(f"{parent}/operations/{request.path_params['operation']}")
        return f"{parent}/builds/{build_id}"


def _id(build: Document) -> str:
    return build["id"]
