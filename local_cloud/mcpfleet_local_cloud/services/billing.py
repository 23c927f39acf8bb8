"""Cloud Billing v1 at `/billing/v1/`: the method that `gcp.organizations.get_project` calls."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.services.auth import ApiAuthorizer

API: Final = "cloudbilling.googleapis.com"


def routes(authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""

    async def billing_info(request: Request) -> Response:
        caller = authorizer.authenticate(request)
        project = authorizer.find_project(request.path_params["project"])["projectId"]
        authorizer.require_api(project, API)
        authorizer.require(caller, "resourcemanager.projects.get", f"projects/{project}")
        # As on Google, the account's name is empty if billing is disabled. A local cloud has no billing.
        return json_api.reply(
            request,
            {
                "name": f"projects/{project}/billingInfo",
                "projectId": project,
                "billingAccountName": "",
                "billingEnabled": False,
            },
        )

    return [Route("/billing/v1/projects/{project}/billingInfo", billing_info, methods=["GET"])]
