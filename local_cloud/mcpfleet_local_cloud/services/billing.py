"""Cloud Billing v1 at `/billing/v1/`, as far as `gcp.organizations.get_project` asks."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.services.auth import ApiAuthorizer

API: Final = "cloudbilling.googleapis.com"


def routes(gate: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""

    async def billing_info(request: Request) -> Response:
        caller = gate.caller(request)
        project = gate.project(request.path_params["project"])["projectId"]
        gate.require_api(project, API)
        gate.require(caller, "resourcemanager.projects.get", f"projects/{project}")
        # Google leaves the account's name empty where billing is off; no machine of ours sends a bill.
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
