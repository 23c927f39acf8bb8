"""gcp:cloudrunv2/service:Service (google-apis.md section 1.1)."""

import time
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, CancelledError, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.diffing import plan
from mcpfleet_local_cloud.plugins.gcp.common import (
    GcpResource,
    annotations,
    labelled,
    labels,
    may_delete,
    outputs,
    seen,
)
from mcpfleet_local_cloud.plugins.gcp.run_table import SERVICE
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties, table
from mcpfleet_local_cloud.plugins.wire import from_wire, to_wire

_ROLLOUT_SECONDS: Final = 300.0


class RunService(GcpResource):
    """A Cloud Run service.

    The service exists as soon as the API took the request: when its rollout fails or the user cancels, the engine
    keeps the id and the next update mends it.
    """

    type_name = "gcp:cloudrunv2/service:Service"
    fields = SERVICE
    endpoint = "cloudRunV2CustomEndpoint"
    id_form = "projects/{project}/locations/{location}/services/{name}"
    import_forms = ("{project}/{location}/{name}", "{location}/{name}")

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """POST the service and wait until its first revision serves."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        address = self.address(planned)
        parent, _, service = address.rpartition("/")
        try:
            operation = config.send(
                call, "POST", self.endpoint, parent, self._body(planned), query={"serviceId": service}
            )
        except ApiError as error:
            if not error.exists_by_our_doing:
                raise ProviderError(f"Error creating Service: {error}") from error
            return self._settled(config, call, address, planned)
        return Found(address, self._rolled_out(config, call, address, planned, operation, "create", "Creating"))

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """PATCH the full service and wait until its new revision serves."""
        planned = self._planned(config, olds, news, preview=preview)
        if preview:
            return planned
        try:
            operation = config.send(call, "PATCH", self.endpoint, resource_id, self._body(planned))
        except ApiError as error:
            raise ProviderError(f'Error updating Service "{resource_id}": {error}') from error
        return self._rolled_out(config, call, resource_id, planned, operation, "update", "Updating")

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """GET the service."""
        parts = self.parts(config, resource_id)
        address = self.address(parts)
        known = state or {**parts, "deletionProtection": True}
        try:
            return Found(address, self._state({**known, **parts}, config.send(call, "GET", self.endpoint, address)))
        except ApiError as error:
            if error.missing:
                return None
            raise ProviderError(f'Error when reading or editing CloudRunV2Service "{address}": {error}') from error

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the service and wait until it is gone."""
        if not may_delete(olds, "service"):
            return
        if olds.get("deletionProtection", True):
            raise ProviderError(
                "cannot destroy service without setting deletion_protection=false and running `pulumi up`"
            )
        try:
            operation = config.send(call, "DELETE", self.endpoint, resource_id)
            config.finish(call, self.endpoint, operation, "Deleting Service")
        except ApiError as error:
            if not error.missing:
                raise ProviderError(f'Error when reading or editing Service "{resource_id}": {error}') from error

    def _planned(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        news = self.complete(api, news)
        planned = plan(SERVICE, olds, news, unknown=preview)
        return {**planned, **labels(api, olds, news), **annotations(olds, news)}

    def _body(self, planned: Properties) -> dict[str, Any]:
        body = to_wire(SERVICE, planned)
        for key, effective in (("labels", "effectiveLabels"), ("annotations", "effectiveAnnotations")):
            if planned.get(effective):
                body[key] = planned[effective]
        return body

    def _state(self, known: Properties, body: dict[str, Any]) -> Properties:
        """The state that *body* shows; *known* has what only the provider knows."""
        local = {one.name: known[one.name] for one in SERVICE if not one.wire and one.name in known}
        found = {"deletionPolicy": "DELETE", **local, **from_wire(SERVICE, body), **labelled(known, body)}
        effective = table(body.get("annotations"))
        found["effectiveAnnotations"] = dict(effective)
        mine = seen("annotations", known, effective)
        if mine is not None:
            found["annotations"] = mine
        return outputs(SERVICE, found)

    def _rolled_out(
        self, api: Api, call: Call, address: str, planned: Properties, operation: dict[str, Any], verb: str, doing: str
    ) -> Properties:
        try:
            api.finish(call, self.endpoint, operation, f"{doing} Service")
        except ProviderError as error:
            reason = f"Error waiting to {verb} Service: {error}"
            state = planned if isinstance(error, CancelledError) else self._now(api, call, address, planned)
            raise PartialFailureError([reason], resource_id=address, properties=state) from error
        return self._now(api, call, address, planned)

    def _now(self, api: Api, call: Call, address: str, planned: Properties) -> Properties:
        """The state after an operation; the plan, should the service have gone meanwhile."""
        try:
            return self._state(planned, api.send(call, "GET", self.endpoint, address))
        except ProviderError:
            return planned

    def _settled(self, api: Api, call: Call, address: str, planned: Properties) -> Found:
        """The service that an unanswered request made: its operation's name is lost, so its own state is watched."""
        started, pause = time.monotonic(), 0.1
        while True:
            body = api.send(call, "GET", self.endpoint, address)
            if not body.get("reconciling") or time.monotonic() - started > _ROLLOUT_SECONDS:
                break
            call.wait(pause)
            pause = min(pause * 1.5, 1.0)
        state = self._state(planned, body)
        ready = table(body.get("terminalCondition"))
        if ready.get("state") == "CONDITION_FAILED":
            reason = f"Error waiting to create Service: Error waiting for Creating Service: {ready.get('message')}"
            raise PartialFailureError([reason], resource_id=address, properties=state)
        return Found(address, state)
