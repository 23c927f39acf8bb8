"""The HTTP layer of Cloud DNS v1 at `/dns/v1/`; `model.py` has the logic.

The provider sends zones itself, and records through Google's Go client, which replaces everything after `/dns/` in the
endpoint (docs/google-apis.md 0, 4). So the prefix must be Google's.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from mcpfleet_local_cloud.rest import json_api
from mcpfleet_local_cloud.rest.message_parser import read_body
from mcpfleet_local_cloud.services.auth import ApiAuthorizer
from mcpfleet_local_cloud.services.dns.model import Dns
from mcpfleet_local_cloud.services.handlers import Handlers
from mcpfleet_local_cloud.state.store import Document

API: Final = "dns.googleapis.com"
_ZONES: Final = "/dns/v1/projects/{project}/managedZones"
_ZONE: Final = _ZONES + "/{zone}"
_PAGE_SIZE: Final = 100


def routes(model: Dns, authorizer: ApiAuthorizer) -> list[BaseRoute]:
    """The API's routes."""
    api = _Api(model, authorizer)
    return [
        Route(_ZONES, api.create, methods=["POST"]),
        Route(_ZONES, api.list, methods=["GET"]),
        Route(_ZONE, api.get, methods=["GET"]),
        Route(_ZONE, api.replace, methods=["PUT"]),
        Route(_ZONE, api.merge, methods=["PATCH"]),
        Route(_ZONE, api.delete, methods=["DELETE"]),
        Route(_ZONE + "/rrsets", api.records, methods=["GET"]),
        Route(_ZONE + "/changes", api.change, methods=["POST"]),
        Route(_ZONE + "/changes/{change}", api.get_change, methods=["GET"]),
    ]


class _Api(Handlers):
    def __init__(self, model: Dns, authorizer: ApiAuthorizer) -> None:
        super().__init__(authorizer, API)
        self._model = model

    async def create(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "dns.managedZones.create", parent)
        return json_api.reply(request, self._model.create(parent, await read_body(request)))

    async def list(self, request: Request) -> Response:
        parent = self.parent(request)
        self.require_permission(request, "dns.managedZones.list", parent)
        zones = self._model.zones(parent)
        page = json_api.list_page(request, "managedZones", zones, default=_PAGE_SIZE, maximum=_PAGE_SIZE)
        return json_api.reply(request, {"kind": "dns#managedZonesListResponse", "managedZones": [], **page})

    async def get(self, request: Request) -> Response:
        return json_api.reply(request, self._model.get(self._authorize_zone(request, "dns.managedZones.get")))

    async def replace(self, request: Request) -> Response:
        path = self._authorize_zone(request, "dns.managedZones.update")
        return json_api.reply(
            request, self._zone_operation(self._model.change(path, await read_body(request), merge=False))
        )

    async def merge(self, request: Request) -> Response:
        path = self._authorize_zone(request, "dns.managedZones.update")
        return json_api.reply(
            request, self._zone_operation(self._model.change(path, await read_body(request), merge=True))
        )

    async def delete(self, request: Request) -> Response:
        self._model.delete(self._authorize_zone(request, "dns.managedZones.delete"))
        return Response(status_code=204)

    async def records(self, request: Request) -> Response:
        path = self._authorize_zone(request, "dns.resourceRecordSets.list")
        parameters = request.query_params
        records = self._model.records(path, parameters.get("name", ""), parameters.get("type", ""))
        page = json_api.list_page(request, "rrsets", records, default=_PAGE_SIZE, maximum=_PAGE_SIZE, key=_record_key)
        return json_api.reply(request, {"kind": "dns#resourceRecordSetsListResponse", "rrsets": [], **page})

    async def change(self, request: Request) -> Response:
        path = self._authorize_zone(request, "dns.changes.create")
        body = await read_body(request)
        for part, verb in (("additions", "create"), ("deletions", "delete")):
            if body.get(part):
                self.require_permission(request, f"dns.resourceRecordSets.{verb}", path)
        return json_api.reply(request, self._model.apply(path, body))

    async def get_change(self, request: Request) -> Response:
        """Return the change as done: every change is done when it is created."""
        self._model.get(self._authorize_zone(request, "dns.changes.get"))
        return json_api.reply(request, {"kind": "dns#change", "id": request.path_params["change"], "status": "done"})

    def _authorize_zone(self, request: Request, permission: str) -> str:
        path = f"{self.parent(request)}/managedZones/{request.path_params['zone']}"
        self.require_permission(request, permission, path)
        return path

    @staticmethod
    def _zone_operation(zone: Document) -> Document:
        return {"kind": "dns#operation", "status": "done", "zoneContext": {"newValue": zone}}


def _record_key(record: Document) -> str:
    return f"{record['name']} {record['type']}"
