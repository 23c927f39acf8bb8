"""Cloud Resource Manager v1 at `/crm/v1/`: the project and its IAM policy."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies, policy_from
from mcpfleet_local_cloud.rest import wire
from mcpfleet_local_cloud.services.auth import Gate
from mcpfleet_local_cloud.services.resourcemanager.model import Projects
from mcpfleet_local_cloud.state.store import Document

API: Final = "cloudresourcemanager.googleapis.com"
_PROJECT: Final = "/crm/v1/projects/{project}"


def routes(model: Projects, policies: Policies, gate: Gate) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, policies, gate)
    return [
        Route(f"{_PROJECT}:getIamPolicy", api.get_policy, methods=["POST"]),
        Route(f"{_PROJECT}:setIamPolicy", api.set_policy, methods=["POST"]),
        Route(f"{_PROJECT}:testIamPermissions", api.test_permissions, methods=["POST"]),
        Route(f"{_PROJECT}:getAncestry", api.ancestry, methods=["POST"]),
        Route(_PROJECT, api.get, methods=["GET"]),
        Route("/crm/v3/projects/{project}", api.get_v3, methods=["GET"]),
        Route("/crm/v1/projects", api.list, methods=["GET"]),
    ]


class _Api:
    def __init__(self, model: Projects, policies: Policies, gate: Gate) -> None:
        self._model = model
        self._policies = policies
        self._gate = gate

    async def get(self, request: Request) -> Response:
        project = self._project(request)
        self._gate.require(self._gate.caller(request), "resourcemanager.projects.get", _name(project))
        return wire.reply(request, project)

    async def ancestry(self, request: Request) -> Response:
        """The project and what it lies in: an organization of its own, as Identity-Aware Proxy wants it."""
        project = self._project(request)
        self._gate.require(self._gate.caller(request), "resourcemanager.projects.get", _name(project))
        await wire.json_object(request, ())
        parents = [("project", project["projectId"]), ("organization", project["parent"]["id"])]
        return wire.reply(request, {"ancestor": [{"resourceId": {"type": kind, "id": one}} for kind, one in parents]})

    async def get_v3(self, request: Request) -> Response:
        """The same project as the API's third version has it."""
        project = self._project(request)
        self._gate.require(self._gate.caller(request), "resourcemanager.projects.get", _name(project))
        shown = {
            "name": f"projects/{project['projectNumber']}",
            "parent": f"organizations/{project['parent']['id']}",
            "projectId": project["projectId"],
            "state": project["lifecycleState"],
            "displayName": project["name"],
            "createTime": project["createTime"],
        }
        return wire.reply(request, shown)

    async def list(self, request: Request) -> Response:
        caller = self._gate.caller(request)
        # A list shows what the caller may see, and refuses nobody.
        seen = [
            project
            for project in self._model.list()
            if self._policies.allows(caller.email, "resourcemanager.projects.get", _name(project))
        ]
        return wire.reply(request, {"projects": seen} if seen else {})

    async def get_policy(self, request: Request) -> Response:
        project = self._project(request)
        self._gate.require(self._gate.caller(request), "resourcemanager.projects.getIamPolicy", _name(project))
        await wire.json_object(request, {"options"})
        return wire.reply(request, self._policies.get(_name(project)))

    async def set_policy(self, request: Request) -> Response:
        project = self._project(request)
        self._gate.require(self._gate.caller(request), "resourcemanager.projects.setIamPolicy", _name(project))
        policy = policy_from(await wire.json_object(request, {"policy", "updateMask"}))
        return wire.reply(request, self._policies.set(_name(project), policy))

    async def test_permissions(self, request: Request) -> Response:
        caller = self._gate.caller(request)
        project = self._project(request)
        asked = wire.texts(await wire.json_object(request, {"permissions"}), "permissions")
        held = [one for one in asked if self._policies.allows(caller.email, one, _name(project))]
        return wire.reply(request, {"permissions": held} if held else {})

    def _project(self, request: Request) -> Document:
        self._gate.caller(request)
        project = self._gate.project(request.path_params["project"])
        self._gate.require_api(project["projectId"], API)
        return project


def _name(project: Document) -> str:
    return f"projects/{project['projectId']}"
