"""What the handlers of every API do first: who calls, is the API enabled, may they; and a resource's IAM methods."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies, policy_from
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.rest.supported_fields import PACKAGES
from mcpfleet_local_cloud.services.auth import ApiAuthorizer, Caller
from mcpfleet_local_cloud.state.store import Document

EMPTY: Final = "type.googleapis.com/google.protobuf.Empty"
Named = Callable[[Request, str], str]
"""The full name of the resource that a request means, where its caller may do the verb to it ("": none is asked)."""


class Handlers:
    """One API's way to the gate.

    Args:
        gate: knows callers, projects and rights.
        api: the API's name, `secretmanager.googleapis.com`.
    """

    def __init__(self, gate: ApiAuthorizer, api: str) -> None:
        self._gate = gate
        self._api = api

    def caller(self, request: Request) -> Caller:
        """Who calls.

        Raises:
            GoogleError: UNAUTHENTICATED.
        """
        return self._gate.caller(request)

    def project(self, request: Request) -> Document:
        """The project that the path names by id or number, which has the API enabled.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        self._gate.caller(request)
        project = self._gate.project(request.path_params["project"])
        self._gate.require_api(project["projectId"], self._api)
        return project

    def parent(self, request: Request) -> str:
        """`projects/ID`, or `projects/ID/locations/L` where the path has a location."""
        name = f"projects/{self.project(request)['projectId']}"
        location = request.path_params.get("location")
        return f"{name}/locations/{location}" if location else name

    def finished(
        self, request: Request, operations: Operations, parent: str, kind: str = "", response: Document | None = None
    ) -> Response:
        """A finished operation below *parent*, whose *response* is a message of that *kind* of the API's."""
        package = f"type.googleapis.com/{PACKAGES[self._api.partition('.')[0]]}"
        typed = {"@type": f"{package}.{kind}" if kind else EMPTY, **(response or {})}
        return json_api.reply(
            request, operations.add_finished(parent, typed, {"@type": f"{package}.OperationMetadata"})
        )

    def allow(self, request: Request, permission: str, resource: str) -> None:
        """Return where the caller has *permission* on *resource*.

        Raises:
            GoogleError: PERMISSION_DENIED.
        """
        self._gate.require(self._gate.caller(request), permission, resource)


class PolicyMethods:
    """`getIamPolicy`, `setIamPolicy` and `testIamPermissions` of one kind of resource.

    Args:
        named: see `Named`.
        policies: keeps the policies.
        gate: knows the caller.
    """

    def __init__(self, named: Named, policies: Policies, gate: ApiAuthorizer) -> None:
        self._named: Final = named
        self._policies = policies
        self._gate = gate

    def routes(self, path: str, get: str = "GET") -> list[BaseRoute]:
        """The three routes of the resource at *path*; *get* is the method of getIamPolicy."""
        return [
            Route(f"{path}:getIamPolicy", self.get, methods=[get]),
            Route(f"{path}:setIamPolicy", self.set, methods=["POST"]),
            Route(f"{path}:testIamPermissions", self.test, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """The policy."""
        name = self._named(request, "getIamPolicy")
        await read_body(request)
        return json_api.reply(request, self._policies.get(name))

    async def set(self, request: Request) -> Response:
        """Replace the policy."""
        name = self._named(request, "setIamPolicy")
        policy = policy_from(await read_body(request))
        return json_api.reply(request, self._policies.set(name, policy))

    async def test(self, request: Request) -> Response:
        """Which of the permissions in the body the caller has."""
        name = self._named(request, "")
        asked: list[str] = (await read_body(request)).get("permissions", [])
        caller = self._gate.caller(request)
        held = self._policies.held(caller.email, asked, name)
        return json_api.reply(request, {"permissions": held} if held else {})
