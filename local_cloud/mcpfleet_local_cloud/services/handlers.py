"""Base of every API's handlers: authentication, enabled APIs, permissions, and the IAM methods of a resource."""

from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies, read_policy_body
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.rest.supported_fields import PACKAGES
from mcpfleet_local_cloud.services.auth import ApiAuthorizer, Caller
from mcpfleet_local_cloud.state.store import Document

EMPTY: Final = "type.googleapis.com/google.protobuf.Empty"
ResolveName = Callable[[Request, str], str]
"""Returns the full name of a request's resource after a check that the caller may do the verb ("" skips the check)."""


class Handlers:
    """Base class of one API's handlers.

    Args:
        authorizer: authenticates callers and checks permissions.
        api: the API's name, `secretmanager.googleapis.com`.
    """

    def __init__(self, authorizer: ApiAuthorizer, api: str) -> None:
        self._authorizer = authorizer
        self._api = api

    def authenticate(self, request: Request) -> Caller:
        """Identify the caller.

        Raises:
            GoogleError: UNAUTHENTICATED.
        """
        return self._authorizer.authenticate(request)

    def project(self, request: Request) -> Document:
        """Return the project in the path (by id or number), after a check that it has the API enabled.

        Raises:
            GoogleError: UNAUTHENTICATED, PERMISSION_DENIED.
        """
        self._authorizer.authenticate(request)
        project = self._authorizer.find_project(request.path_params["project"])
        self._authorizer.require_api(project["projectId"], self._api)
        return project

    def parent(self, request: Request) -> str:
        """Return `projects/ID`, or `projects/ID/locations/L` if the path has a location."""
        name = f"projects/{self.project(request)['projectId']}"
        location = request.path_params.get("location")
        return f"{name}/locations/{location}" if location else name

    def reply_finished(
        self, request: Request, operations: Operations, parent: str, kind: str = "", response: Document | None = None
    ) -> Response:
        """Respond with a finished operation below *parent*; its *response* is a message of the API's type *kind*."""
        package = f"type.googleapis.com/{PACKAGES[self._api.partition('.')[0]]}"
        typed = {"@type": f"{package}.{kind}" if kind else EMPTY, **(response or {})}
        return json_api.reply(
            request, operations.add_finished(parent, typed, {"@type": f"{package}.OperationMetadata"})
        )

    def require_permission(self, request: Request, permission: str, resource: str) -> None:
        """Require that the caller has *permission* on *resource*.

        Raises:
            GoogleError: PERMISSION_DENIED.
        """
        self._authorizer.require(self._authorizer.authenticate(request), permission, resource)


class PolicyMethods:
    """`getIamPolicy`, `setIamPolicy` and `testIamPermissions` for one type of resource.

    Args:
        resolve_name: see `ResolveName`.
        policies: stores the policies.
        authorizer: authenticates the caller.
    """

    def __init__(self, resolve_name: ResolveName, policies: Policies, authorizer: ApiAuthorizer) -> None:
        self._resolve_name: Final = resolve_name
        self._policies = policies
        self._authorizer = authorizer

    def routes(self, path: str, get: str = "GET") -> list[BaseRoute]:
        """Return the three routes for the resource at *path*; *get* is the HTTP method of getIamPolicy."""
        return [
            Route(f"{path}:getIamPolicy", self.get, methods=[get]),
            Route(f"{path}:setIamPolicy", self.set, methods=["POST"]),
            Route(f"{path}:testIamPermissions", self.test, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """Return the policy."""
        name = self._resolve_name(request, "getIamPolicy")
        await read_body(request)
        return json_api.reply(request, self._policies.get(name))

    async def set(self, request: Request) -> Response:
        """Replace the policy."""
        name = self._resolve_name(request, "setIamPolicy")
        policy = read_policy_body(await read_body(request))
        return json_api.reply(request, self._policies.set(name, policy))

    async def test(self, request: Request) -> Response:
        """Return those permissions in the body that the caller has."""
        name = self._resolve_name(request, "")
        permissions: list[str] = (await read_body(request)).get("permissions", [])
        caller = self._authorizer.authenticate(request)
        granted = self._policies.filter_permissions(caller.email, permissions, name)
        return json_api.reply(request, {"permissions": granted} if granted else {})
