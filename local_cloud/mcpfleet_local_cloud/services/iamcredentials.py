"""IAM Credentials v1 at `/iamcredentials/v1/`: generateAccessToken and generateIdToken."""

import re
import time
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.identity.tokens import LIFETIME_SECONDS, Identity
from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import GoogleError, invalid
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import IAM, ApiAuthorizer
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.state.store import Document

API: Final = "iamcredentials.googleapis.com"
_ACCOUNT: Final = "/iamcredentials/v1/projects/{project}/serviceAccounts/{account}"
_SCOPES: Final = frozenset({IAM})
_DURATION: Final = re.compile(r"([0-9]{1,9})(?:\.[0-9]{1,9})?s")


def routes(
    identity: Identity,
    accounts: ServiceAccounts,
    authorizer: ApiAuthorizer,
    clock: Callable[[], float] = time.time,
) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(identity, accounts, authorizer, clock)
    return [
        Route(f"{_ACCOUNT}:generateAccessToken", api.access_token, methods=["POST"]),
        Route(f"{_ACCOUNT}:generateIdToken", api.id_token, methods=["POST"]),
    ]


class _Api:
    def __init__(
        self, identity: Identity, accounts: ServiceAccounts, authorizer: ApiAuthorizer, clock: Callable[[], float]
    ) -> None:
        self._identity = identity
        self._accounts = accounts
        self._authorizer = authorizer
        self._clock = clock

    async def access_token(self, request: Request) -> Response:
        account = self._authorize(request, "iam.serviceAccounts.getAccessToken")
        body = await read_body(request)
        scopes: list[str] = body.get("scope", [])
        if not scopes:
            raise invalid("scope: at least one scope is required.")
        token, lifetime = self._identity.mint_access_token(
            email=account["email"], scopes=scopes, lifetime=_lifetime(body.get("lifetime", ""))
        )
        expires = json_api.format_timestamp(int(self._clock()) + lifetime, "seconds")
        return json_api.reply(request, {"accessToken": token, "expireTime": expires})

    async def id_token(self, request: Request) -> Response:
        account = self._authorize(request, "iam.serviceAccounts.getOpenIdToken")
        body = await read_body(request)
        token = self._identity.mint_id_token(
            email=account["email"],
            subject=account["uniqueId"],
            audience=json_api.require_field(body, "audience"),
            include_email=body.get("includeEmail", False),
        )
        return json_api.reply(request, {"token": token})

    def _authorize(self, request: Request, permission: str) -> Document:
        caller = self._authorizer.authenticate(request, _SCOPES)
        if request.path_params["project"] != "-":
            raise invalid("name: the project must be given as '-'.")
        key: str = request.path_params["account"]
        candidate = self._accounts.get(key)
        resource = candidate["name"] if candidate else f"projects/-/serviceAccounts/{key}"
        if candidate:
            self._authorizer.require_api(candidate["projectId"], API)
        self._authorizer.require(caller, permission, resource)
        account = self._accounts.find("-", key)
        if account.get("disabled"):
            raise GoogleError("FAILED_PRECONDITION", f"Service account {account['email']} is disabled.")
        return account


def _lifetime(text: str) -> int:
    if not text:
        return LIFETIME_SECONDS
    match = _DURATION.fullmatch(text)
    if match is None or not 0 < int(match[1]) <= LIFETIME_SECONDS:
        raise invalid(f"lifetime: {text!r} is not a duration from 1s to {LIFETIME_SECONDS}s.")
    return int(match[1])
