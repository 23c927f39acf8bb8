"""gcp:cloudrunv2/service:Service (docs/google-apis.md 1.1)."""

import time
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, CancelledError, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import annotations, seen
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.run_table import SERVICE
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties, table

_ROLLOUT_SECONDS: Final = 300.0


class RunService(RestResource):
    """A Cloud Run service.

    The service exists as soon as the API took the request: when its rollout fails or the user cancels, the engine
    keeps the id and the next update mends it.
    """

    type_name = "gcp:cloudrunv2/service:Service"
    fields = SERVICE
    endpoint = "cloudRunV2CustomEndpoint"
    id_form = "projects/{project}/locations/{location}/services/{name}"
    import_forms = ("{project}/{location}/{name}", "{location}/{name}")
    title = "Service"
    waiting = "google"
    labelled = True

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """POST the service and wait until its first revision serves."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        address = self.address(planned)
        parent, _, service = address.rpartition("/")
        try:
            operation = config.send(
                call, "POST", self.endpoint, parent, self.body(planned, {}), query={"serviceId": service}
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
            operation = config.send(call, "PATCH", self.endpoint, resource_id, self.body(planned, {}))
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

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the service and wait until it is gone, unless it is protected."""
        if olds.get("deletionProtection", True):
            raise ProviderError(
                "cannot destroy service without setting deletion_protection=false and running `pulumi up`"
            )
        super().remove(config, call, resource_id, olds)

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document, with the annotations of others."""
        body = super().body(planned, olds)
        if planned.get("effectiveAnnotations"):
            body["annotations"] = planned["effectiveAnnotations"]
        return body

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """All annotations, and those that are ours."""
        effective = table(body.get("annotations"))
        mine = seen("annotations", known, effective)
        return {"effectiveAnnotations": dict(effective), **({} if mine is None else {"annotations": mine})}

    def _planned(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        planned = super()._planned(api, olds, news, preview=preview)
        return {**planned, **annotations(olds, self.complete(api, news))}

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
