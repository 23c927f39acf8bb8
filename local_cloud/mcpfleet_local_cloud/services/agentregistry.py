"""Agent Registry v1 at `/agentregistry/v1/`: services as records, with long-running operations.

The fields are those of the provider (`gcp.agentregistry.Service` 10.2.0). A service is an MCP server, an agent or an
endpoint.
"""

import re
import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.errors import already_exists, invalid, not_found
from mcpfleet_local_cloud.rest.masks import find_masked_fields
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.state.store import Document, Store

API: Final = "agentregistry.googleapis.com"
KIND: Final = "agentregistry.service"
_LOCATION: Final = "/agentregistry/v1/projects/{project}/locations/{location}"
_SERVICE: Final = _LOCATION + "/services/{service}"
_PAGE_SIZE: Final = 500
_SPECS: Final = ("mcpServerSpec", "agentSpec", "endpointSpec")
_ID: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


def routes(store: Store, operations: Operations, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(store, operations, authorizer)
    return [
        Route(_LOCATION + "/services", api.create, methods=["POST"]),
        Route(_LOCATION + "/services", api.list, methods=["GET"]),
        Route(_SERVICE, api.get, methods=["GET"]),
        Route(_SERVICE, api.update, methods=["PATCH"]),
        Route(_SERVICE, api.delete, methods=["DELETE"]),
        Route(_LOCATION + "/operations/{operation}", api.operation, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, store: Store, operations: Operations, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._store = store
        self._operations = operations

    async def create(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "agentregistry.services.create", parent)
        service_id = request.query_params.get("serviceId", "")
        if not _ID.fullmatch(service_id):
            raise invalid(f"service_id: '{service_id}' must be 1 to 63 lower-case letters, digits and hyphens.")
        name = f"{parent}/services/{service_id}"
        body = _check_service(await read_body(request))
        kind = "mcpServers" if "mcpServerSpec" in body else "agents" if "agentSpec" in body else "endpoints"
        now = _now()
        service = {**body, "name": name, "createTime": now, "updateTime": now}
        service["registryResource"] = f"{parent}/{kind}/{service_id}"
        if not self._store.insert(KIND, name, service):
            raise already_exists(name)
        return self.reply_finished(request, self._operations, parent, "Service", service)

    async def list(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "agentregistry.services.list", parent)
        services = [service for _, service in self._store.list(KIND, f"{parent}/services/")]
        return json_api.reply(
            request, json_api.list_page(request, "services", services, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        )

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._find_service(request, "get"))

    async def update(self, request: Request) -> Response:
        service = self._find_service(request, "update")
        body = await read_body(request)
        for field in find_masked_fields(request, body):
            service[field] = body.get(field)
        updated = {**_check_service({key: value for key, value in service.items() if value}), "updateTime": _now()}
        self._store.put(KIND, service["name"], updated)
        parent = service["name"].partition("/services/")[0]
        return self.reply_finished(request, self._operations, parent, "Service", updated)

    async def delete(self, request: Request) -> Response:
        service = self._find_service(request, "delete")
        self._store.delete(KIND, service["name"])
        return self.reply_finished(request, self._operations, service["name"].partition("/services/")[0])

    async def operation(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "agentregistry.services.get", parent)
        return json_api.reply(request, self._operations.get(f"{parent}/operations/{request.path_params['operation']}"))

    def _find_service(self, request: Request, verb: str) -> Document:
        name = f"{self.parent(request)}/services/{request.path_params['service']}"
        self.require_permission(request, f"agentregistry.services.{verb}", name)
        service = self._store.get(KIND, name)
        if service is None:
            raise not_found(name)
        return service


def _check_service(body: Document) -> Document:
    specs = [spec for spec in _SPECS if body.get(spec) is not None]
    if len(specs) != 1:
        raise invalid(f"service: exactly one of {', '.join(_SPECS)} must be set.")
    if not body[specs[0]].get("type"):
        raise invalid(f"service.{specs[0]}.type: must be set.")
    interfaces: list[Document] = body.get("interfaces", [])
    for index, interface in enumerate(interfaces):
        for field in ("url", "protocolBinding"):
            if interface.get(field) in (None, "", "PROTOCOL_BINDING_UNSPECIFIED"):
                raise invalid(f"service.interfaces[{index}].{field}: must be set.")
    return body


def _now() -> str:
    return json_api.format_timestamp(time.time())
