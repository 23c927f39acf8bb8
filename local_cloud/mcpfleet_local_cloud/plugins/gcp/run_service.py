"""gcp:cloudrunv2/service:Service (docs/google-apis.md 1.1)."""

import time
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, CancelledError, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import plan_annotations, select_managed
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.run_service_fields import SERVICE
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import Properties, as_dict

_ROLLOUT_SECONDS: Final = 300.0


class RunService(RestResource):
    """A Cloud Run service.

    The service exists as soon as the API accepts the request: if its rollout fails or the user cancels, the engine
    keeps the id, and the next update repairs the service.
    """

    type_name = "gcp:cloudrunv2/service:Service"
    fields = SERVICE
    endpoint = "cloudRunV2CustomEndpoint"
    id_format = "projects/{project}/locations/{location}/services/{name}"
    import_formats = ("{project}/{location}/{name}", "{location}/{name}")
    title = "Service"
    operation_kind = "google"
    has_labels = True

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """POST the service and wait until its first revision serves."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        address = self.address(planned)
        parent, _, service = address.rpartition("/")
        try:
            operation = config.send(
                call, "POST", self.endpoint, parent, self.body(planned, {}), query={"serviceId": service}
            )
        except ApiError as error:
            if not error.is_created_by_earlier_attempt:
                raise ProviderError(f"Error creating Service: {error}") from error
            return self._watch_rollout(config, call, address, planned)
        return ResourceState(
            address, self._wait_for_rollout(config, call, address, planned, operation, "create", "Creating")
        )

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """PATCH the full service and wait until its new revision serves."""
        planned = self._plan(config, olds, news, preview=preview)
        if preview:
            return planned
        try:
            operation = config.send(call, "PATCH", self.endpoint, resource_id, self.body(planned, {}))
        except ApiError as error:
            raise ProviderError(f'Error updating Service "{resource_id}": {error}') from error
        return self._wait_for_rollout(config, call, resource_id, planned, operation, "update", "Updating")

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """GET the service; None if it doesn't exist."""
        parts = self.parse_id(config, resource_id)
        address = self.address(parts)
        prior = state or {**parts, "deletionProtection": True}
        try:
            return ResourceState(
                address, self._state({**prior, **parts}, config.send(call, "GET", self.endpoint, address))
            )
        except ApiError as error:
            if error.is_not_found:
                return None
            raise ProviderError(f'Error when reading or editing CloudRunV2Service "{address}": {error}') from error

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the service, unless it is protected, and wait until it doesn't exist anymore."""
        if olds.get("deletionProtection", True):
            raise ProviderError(
                "cannot destroy service without setting deletion_protection=false and running `pulumi up`"
            )
        super().send_delete(config, call, resource_id, olds)

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The request body, with the annotations of other tools."""
        body = super().body(planned, olds)
        if planned.get("effectiveAnnotations"):
            body["annotations"] = planned["effectiveAnnotations"]
        return body

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """All annotations, and those that the program manages."""
        effective = as_dict(body.get("annotations"))
        configured = select_managed("annotations", prior, effective)
        return {"effectiveAnnotations": dict(effective), **({} if configured is None else {"annotations": configured})}

    def _plan(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        planned = super()._plan(api, olds, news, preview=preview)
        return {**planned, **plan_annotations(olds, self.complete_inputs(api, news))}

    def _wait_for_rollout(
        self,
        api: Api,
        call: Call,
        address: str,
        planned: Properties,
        operation: dict[str, Any],
        verb: str,
        activity: str,
    ) -> Properties:
        try:
            api.wait_for_operation(call, self.endpoint, operation, f"{activity} Service")
        except ProviderError as error:
            reason = f"Error waiting to {verb} Service: {error}"
            state = planned if isinstance(error, CancelledError) else self._read_or_plan(api, call, address, planned)
            raise PartialFailureError([reason], resource_id=address, properties=state) from error
        return self._read_or_plan(api, call, address, planned)

    def _read_or_plan(self, api: Api, call: Call, address: str, planned: Properties) -> Properties:
        """The current state; the plan if the service can't be read."""
        try:
            return self._state(planned, api.send(call, "GET", self.endpoint, address))
        except ProviderError:
            return planned

    def _watch_rollout(self, api: Api, call: Call, address: str, planned: Properties) -> ResourceState:
        """Watch the state of a service whose creation got no response, so that its operation's name is unknown."""
        started, pause = time.monotonic(), 0.1
        while True:
            body = api.send(call, "GET", self.endpoint, address)
            if not body.get("reconciling") or time.monotonic() - started > _ROLLOUT_SECONDS:
                break
            call.wait(pause)
            pause = min(pause * 1.5, 1.0)
        state = self._state(planned, body)
        ready = as_dict(body.get("terminalCondition"))
        if ready.get("state") == "CONDITION_FAILED":
            reason = f"Error waiting to create Service: Error waiting for Creating Service: {ready.get('message')}"
            raise PartialFailureError([reason], resource_id=address, properties=state)
        return ResourceState(address, state)
