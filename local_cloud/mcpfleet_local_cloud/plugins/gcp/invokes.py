"""Functions of the gcp provider that programs call."""

import base64
from collections.abc import Mapping
from typing import Any

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.values import Properties, Secret


def get_client_config(api: Api, call: Call, arguments: Properties) -> Properties:
    """gcp:organizations/getClientConfig:getClientConfig; makes no call except for the token."""
    config = api.config
    return {
        "id": f'projects/"{config.project}"/regions/"{config.region}"/zones/"{config.zone}"',
        "project": config.project,
        "region": config.region,
        "zone": config.zone,
        "accessToken": Secret(api.bearer_token()),
        "defaultLabels": dict(config.default_labels),
    }


def get_project(api: Api, call: Call, arguments: Properties) -> Properties:
    """gcp:organizations/getProject:getProject: the project and its billing account (docs/google-apis.md 1.7)."""
    project = arguments.get("projectId") or api.config.project
    if not project:
        raise ProviderError("no project value set. `project_id` must be set at the resource level")
    try:
        response = api.send(call, "GET", "resourceManagerCustomEndpoint", f"projects/{project}")
    except ApiError as error:
        if error.is_not_found:
            raise ProviderError(f"projects/{project} not found") from error
        raise
    try:
        billing = api.send(call, "GET", "cloudBillingCustomEndpoint", f"projects/{project}/billingInfo")
    except ApiError as error:
        if not error.is_api_disabled:
            raise ProviderError(f'Error reading billing account for project "projects/{project}": {error}') from error
        billing = {}
    parent: Mapping[str, Any] = response.get("parent") or {}
    parent_property = {"organization": "orgId", "folder": "folderId"}.get(parent.get("type", ""))
    labels: Mapping[str, Any] = response.get("labels") or {}
    return {
        "id": f"projects/{project}",
        "projectId": response.get("projectId", project),
        "number": str(response.get("projectNumber", "")),
        "name": response.get("name", ""),
        "autoCreateNetwork": True,
        "billingAccount": str(billing.get("billingAccountName", "")).removeprefix("billingAccounts/"),
        "deletionPolicy": "PREVENT",
        "effectiveLabels": labels,
        "labels": labels,
        "pulumiLabels": labels,
        "tags": {},
        "orgId": "",
        "folderId": "",
        **({parent_property: parent.get("id", "")} if parent_property else {}),
    }


def get_secret_version_access(api: Api, call: Call, arguments: Properties) -> Properties:
    """gcp:secretmanager/getSecretVersionAccess:getSecretVersionAccess: the value of a version of a secret."""
    version, named = _version_name(api, arguments)
    try:
        response = api.send(call, "GET", "secretManagerCustomEndpoint", f"{version}:access")
    except ApiError as error:
        raise ProviderError(f"error retrieving available secret manager secret version access: {error}") from error
    data: str = response["payload"]["data"]
    is_base64 = arguments.get("isSecretDataBase64") in (True, "true")
    return {
        "id": response["name"],
        "name": response["name"],
        "version": str(response["name"]).rpartition("/")[2],
        **named,
        "isSecretDataBase64": is_base64,
        "secretData": Secret(data if is_base64 else base64.b64decode(data).decode()),
    }


def get_secret_version(api: Api, call: Call, arguments: Properties) -> Properties:
    """gcp:secretmanager/getSecretVersion:getSecretVersion, only with `fetchSecretData` false."""
    if arguments.get("fetchSecretData", True) not in (False, "false"):
        raise ProviderError(
            "the emulated provider's getSecretVersion has no secret values: use getSecretVersionAccess, or set "
            "fetchSecretData to false"
        )
    version, named = _version_name(api, arguments)
    try:
        response = api.send(call, "GET", "secretManagerCustomEndpoint", version)
    except ApiError as error:
        raise ProviderError(f"error retrieving available secret manager secret versions: {error}") from error
    return {
        "id": response["name"],
        "name": response["name"],
        "version": str(response["name"]).rpartition("/")[2],
        **named,
        "enabled": response.get("state") == "ENABLED",
        "createTime": response.get("createTime", ""),
        "destroyTime": response.get("destroyTime", ""),
        "fetchSecretData": False,
        "secretData": "",
    }


def _version_name(api: Api, arguments: Properties) -> tuple[str, Properties]:
    """The full name of a secret's version, and the project and secret as the program set them."""
    secret_name = str(arguments.get("secret") or "")
    project = arguments.get("project") or api.config.project
    secret = secret_name if secret_name.startswith("projects/") else f"projects/{project}/secrets/{secret_name}"
    return f"{secret}/versions/{arguments.get('version') or 'latest'}", {"project": project, "secret": secret_name}


def get_network(api: Api, call: Call, arguments: Properties) -> Properties:
    """gcp:compute/getNetwork:getNetwork."""
    project = arguments.get("project") or api.config.project
    path = f"projects/{project}/global/networks/{arguments['name']}"
    return {**_read_compute(api, call, path), "name": arguments["name"], "project": project}


def get_subnetwork(api: Api, call: Call, arguments: Properties) -> Properties:
    """gcp:compute/getSubnetwork:getSubnetwork."""
    project, region = arguments.get("project") or api.config.project, arguments.get("region") or api.config.region
    properties = _read_compute(api, call, f"projects/{project}/regions/{region}/subnetworks/{arguments['name']}")
    return {**properties, "name": arguments["name"], "project": project, "region": region}


def _read_compute(api: Api, call: Call, path: str) -> Properties:
    try:
        response = api.send(call, "GET", "computeCustomEndpoint", path)
    except ApiError as error:
        if error.is_not_found:
            raise ProviderError(f"{path} not found") from error
        raise
    return {"id": path, "selfLink": response.get("selfLink", "")}
