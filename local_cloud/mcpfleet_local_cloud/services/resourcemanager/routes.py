"""Cloud Resource Manager v1 at `/crm/v1/`: the project and its IAM policy."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers, PolicyMethods
from mcpfleet_local_cloud.services.resourcemanager.model import Projects
from mcpfleet_local_cloud.state.store import Document

API: Final = "cloudresourcemanager.googleapis.com"
_PROJECT: Final = "/crm/v1/projects/{project}"
_PAGE_SIZE: Final = 500


def routes(model: Projects, policies: Policies, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, policies, authorizer)
    return [
        *PolicyMethods(api.resource_name, policies, authorizer).routes(_PROJECT, get="POST"),
        Route(f"{_PROJECT}:getAncestry", api.ancestry, methods=["POST"]),
        Route(_PROJECT, api.get, methods=["GET"]),
        Route("/crm/v3/projects/{project}", api.get_v3, methods=["GET"]),
        Route("/crm/v1/projects", api.list, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, model: Projects, policies: Policies, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model
        self._policies = policies

    def resource_name(self, request: Request, verb: str) -> str:
        """Return the full name of the project; the caller needs the permission for *verb*."""
        return _full_name(self._authorize_project(request, verb) if verb else self.project(request))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._authorize_project(request))

    async def ancestry(self, request: Request) -> Response:
        """Return the project and its parent: an organization, which Identity-Aware Proxy requires."""
        project = self._authorize_project(request)
        await read_body(request)
        parents = [("project", project["projectId"]), ("organization", project["parent"]["id"])]
        return json_api.reply(
            request, {"ancestor": [{"resourceId": {"type": kind, "id": resource_id}} for kind, resource_id in parents]}
        )

    async def get_v3(self, request: Request) -> Response:
        """Return the project in the format of version 3 of the API."""
        project = self._authorize_project(request)
        document = {
            "name": f"projects/{project['projectNumber']}",
            "parent": f"organizations/{project['parent']['id']}",
            "projectId": project["projectId"],
            "state": project["lifecycleState"],
            "displayName": project["name"],
            "createTime": project["createTime"],
        }
        return json_api.reply(request, document)

    async def list(self, request: Request) -> Response:
        caller = self.authenticate(request)
        # A list contains what the caller may see; it is never refused.
        projects = [
            project
            for project in self._model.list()
            if self._policies.allows(caller.email, "resourcemanager.projects.get", _full_name(project))
        ]
        page = json_api.list_page(request, "projects", projects, default=_PAGE_SIZE, maximum=_PAGE_SIZE, key=_full_name)
        return json_api.reply(request, page)

    def _authorize_project(self, request: Request, verb: str = "get") -> Document:
        project = self.project(request)
        self.require_permission(request, f"resourcemanager.projects.{verb}", _full_name(project))
        return project


def _full_name(project: Document) -> str:
    return f"projects/{project['projectId']}"
