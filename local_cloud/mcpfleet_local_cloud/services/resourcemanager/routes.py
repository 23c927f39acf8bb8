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
_PAGE: Final = 500


def routes(model: Projects, policies: Policies, gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, policies, gate)
    return [
        *PolicyMethods(api.named, policies, gate).routes(_PROJECT, get="POST"),
        Route(f"{_PROJECT}:getAncestry", api.ancestry, methods=["POST"]),
        Route(_PROJECT, api.get, methods=["GET"]),
        Route("/crm/v3/projects/{project}", api.get_v3, methods=["GET"]),
        Route("/crm/v1/projects", api.list, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, model: Projects, policies: Policies, gate: ApiAuthorizer) -> None:
        super().__init__(gate, API)
        self._model = model
        self._policies = policies

    def named(self, request: Request, verb: str) -> str:
        """The full name of the project, where the caller may do *verb* to it."""
        return _name(self._allowed(request, verb) if verb else self.project(request))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._allowed(request))

    async def ancestry(self, request: Request) -> Response:
        """The project and what it lies in: an organization of its own, as Identity-Aware Proxy wants it."""
        project = self._allowed(request)
        await read_body(request)
        parents = [("project", project["projectId"]), ("organization", project["parent"]["id"])]
        return json_api.reply(
            request, {"ancestor": [{"resourceId": {"type": kind, "id": one}} for kind, one in parents]}
        )

    async def get_v3(self, request: Request) -> Response:
        """The same project as the API's third version has it."""
        project = self._allowed(request)
        shown = {
            "name": f"projects/{project['projectNumber']}",
            "parent": f"organizations/{project['parent']['id']}",
            "projectId": project["projectId"],
            "state": project["lifecycleState"],
            "displayName": project["name"],
            "createTime": project["createTime"],
        }
        return json_api.reply(request, shown)

    async def list(self, request: Request) -> Response:
        caller = self.caller(request)
        # A list shows what the caller may see, and refuses nobody.
        seen = [
            project
            for project in self._model.list()
            if self._policies.allows(caller.email, "resourcemanager.projects.get", _name(project))
        ]
        page = json_api.list_page(request, "projects", seen, default=_PAGE, maximum=_PAGE, key=_name)
        return json_api.reply(request, page)

    def _allowed(self, request: Request, verb: str = "get") -> Document:
        project = self.project(request)
        self.allow(request, f"resourcemanager.projects.{verb}", _name(project))
        return project


def _name(project: Document) -> str:
    return f"projects/{project['projectId']}"
