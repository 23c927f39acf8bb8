"""The HTTP layer of IAM v1 at `/iam/v1/`; `model.py` and `keys.py` have the logic."""

import asyncio
import base64
import json
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.identity.tokens import new_key
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import invalid
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer, Caller
from mcpfleet_local_cloud.services.handlers import PolicyMethods
from mcpfleet_local_cloud.services.iam.keys import AccountKeys
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.state.store import Document

API: Final = "iam.googleapis.com"
_ACCOUNTS: Final = "/iam/v1/projects/{project}/serviceAccounts"
_ACCOUNT: Final = _ACCOUNTS + "/{account}"


def routes(model: ServiceAccounts, keys: AccountKeys, policies: Policies, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Accounts(model, policies, authorizer)
    key_api = _Keys(model, keys, authorizer)
    return [
        Route(_ACCOUNTS, api.create, methods=["POST"]),
        Route(_ACCOUNTS, api.list, methods=["GET"]),
        *PolicyMethods(api.resource_name, policies, authorizer).routes(_ACCOUNT, get="POST"),
        Route(f"{_ACCOUNT}:enable", api.enable, methods=["POST"]),
        Route(f"{_ACCOUNT}:disable", api.disable, methods=["POST"]),
        Route(f"{_ACCOUNT}/keys", key_api.create, methods=["POST"]),
        Route(f"{_ACCOUNT}/keys", key_api.list, methods=["GET"]),
        Route(f"{_ACCOUNT}/keys/{{key}}", key_api.get, methods=["GET"]),
        Route(f"{_ACCOUNT}/keys/{{key}}", key_api.delete, methods=["DELETE"]),
        Route(_ACCOUNT, api.get, methods=["GET"]),
        Route(_ACCOUNT, api.update, methods=["PATCH"]),
        Route(_ACCOUNT, api.delete, methods=["DELETE"]),
    ]


class _AccountHandlers:
    """Base class of the handlers of accounts and keys."""

    def __init__(self, model: ServiceAccounts, authorizer: ApiAuthorizer) -> None:
        self._model = model
        self._authorizer = authorizer

    def _authenticate(self, request: Request) -> tuple[Caller, str]:
        """Return the caller and the project's id; `-` means the project of the account in the path."""
        caller = self._authorizer.authenticate(request)
        project: str = request.path_params["project"]
        if project == "-":
            domain = str(request.path_params.get("account", "")).partition("@")[2]
            project = domain.partition(".")[0] or project
        project = self._authorizer.find_project(project)["projectId"]
        self._authorizer.require_api(project, API)
        return caller, project

    def _find_account(self, request: Request, permission: str) -> Document:
        """Find the account in the path after a permission check that does not reveal whether the account exists."""
        caller, project = self._authenticate(request)
        key: str = request.path_params["account"]
        candidate = self._model.get(key)
        resource = candidate["name"] if candidate else f"projects/{project}/serviceAccounts/{key}"
        self._authorizer.require(caller, permission, resource)
        return self._model.find(project, key)


class _Accounts(_AccountHandlers):
    def __init__(self, model: ServiceAccounts, policies: Policies, authorizer: ApiAuthorizer) -> None:
        super().__init__(model, authorizer)
        self._policies = policies

    def resource_name(self, request: Request, verb: str) -> str:
        """Return the full name of the path's account, which must exist; the caller needs the permission for *verb*."""
        if verb:
            return self._find_account(request, f"iam.serviceAccounts.{verb}")["name"]
        _, project = self._authenticate(request)
        return self._model.find(project, request.path_params["account"])["name"]

    async def create(self, request: Request) -> Response:
        caller, project = self._authenticate(request)
        self._authorizer.require(caller, "iam.serviceAccounts.create", f"projects/{project}")
        body = await read_body(request)
        account: Document = body.get("serviceAccount", {})
        created = self._model.create(
            project,
            json_api.require_field(body, "accountId"),
            display_name=account.get("displayName", ""),
            description=account.get("description", ""),
        )
        return json_api.reply(request, created)

    async def list(self, request: Request) -> Response:
        caller, project = self._authenticate(request)
        self._authorizer.require(caller, "iam.serviceAccounts.list", f"projects/{project}")
        accounts = sorted(self._model.list_in_project(project), key=lambda account: account["name"])
        return json_api.reply(request, json_api.list_page(request, "accounts", accounts, default=20, maximum=100))

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._find_account(request, "iam.serviceAccounts.get"))

    async def update(self, request: Request) -> Response:
        account = self._find_account(request, "iam.serviceAccounts.update")
        body = await read_body(request)
        mask = [path for path in body.get("updateMask", "").split(",") if path]
        return json_api.reply(request, self._model.update(account, body.get("serviceAccount", {}), mask))

    async def delete(self, request: Request) -> Response:
        account = self._find_account(request, "iam.serviceAccounts.delete")
        self._model.delete(account)
        self._policies.delete(account["name"])
        self._policies.mark_deleted(account["email"], account["uniqueId"])
        return json_api.reply(request, {})

    async def enable(self, request: Request) -> Response:
        return await self._set_state(request, "enable")

    async def disable(self, request: Request) -> Response:
        return await self._set_state(request, "disable")

    async def _set_state(self, request: Request, verb: str) -> Response:
        account = self._find_account(request, f"iam.serviceAccounts.{verb}")
        await read_body(request)
        self._model.set_disabled(account, disabled=verb == "disable")
        return json_api.reply(request, {})


class _Keys(_AccountHandlers):
    def __init__(self, model: ServiceAccounts, keys: AccountKeys, authorizer: ApiAuthorizer) -> None:
        super().__init__(model, authorizer)
        self._keys = keys

    async def create(self, request: Request) -> Response:
        account = self._find_account(request, "iam.serviceAccountKeys.create")
        body = await read_body(request)
        kind, algorithm = body.get("privateKeyType", ""), body.get("keyAlgorithm", "")
        if kind not in {"", "TYPE_UNSPECIFIED", "TYPE_GOOGLE_CREDENTIALS_FILE"}:
            raise invalid(f"privateKeyType: {kind} is not supported; use TYPE_GOOGLE_CREDENTIALS_FILE.")
        if algorithm not in {"", "KEY_ALG_UNSPECIFIED", "KEY_ALG_RSA_2048"}:
            raise invalid(f"keyAlgorithm: {algorithm} is not supported; use KEY_ALG_RSA_2048.")
        material = await asyncio.to_thread(new_key)
        key, credentials = self._keys.create(account, material)
        data = base64.b64encode(json.dumps(credentials, indent=2).encode()).decode()
        return json_api.reply(
            request, {**key, "privateKeyType": "TYPE_GOOGLE_CREDENTIALS_FILE", "privateKeyData": data}
        )

    async def list(self, request: Request) -> Response:
        account = self._find_account(request, "iam.serviceAccountKeys.list")
        key_types = set(request.query_params.getlist("keyTypes"))
        # There are no keys that Google rotates (SYSTEM_MANAGED) here.
        keys = self._keys.list(account) if not key_types or "USER_MANAGED" in key_types else []
        return json_api.reply(request, {"keys": keys} if keys else {})

    async def get(self, request: Request) -> Response:
        account = self._find_account(request, "iam.serviceAccountKeys.get")
        return json_api.reply(request, self._keys.get(account, request.path_params["key"]))

    async def delete(self, request: Request) -> Response:
        account = self._find_account(request, "iam.serviceAccountKeys.delete")
        self._keys.delete(account, request.path_params["key"])
        return json_api.reply(request, {})
