"""The base class of resource types that are plain REST documents, like the code that magic modules generates.

A type has a table of properties and its URLs; the base class creates, reads, updates and deletes it. A type that needs
more overrides one of the small methods at the end.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal

from mcpfleet_local_cloud.plugins.bodies import from_wire, to_wire
from mcpfleet_local_cloud.plugins.call import Call, CancelledError, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.diffing import diff, plan
from mcpfleet_local_cloud.plugins.gcp.common import GcpResource, fill_outputs, plan_labels, read_labels, should_delete
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError, OperationError
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import Properties


class RestResource(GcpResource):
    """A resource type that is a REST document.

    Attributes:
        title: the resource's name in error messages, as in the real provider (`Secret`).
        name_property: the property that is the last part of the id.
        collection: the path to create it in, with property names in braces; if empty, the id without its last part.
        create_parameter: the query parameter for the new resource's name; empty if the body has the name.
        update_method: `mask`: PATCH with `updateMask`; `patch`: PATCH of everything; `put`: PUT; `""`: no call at all.
        maskable: the properties that an `updateMask` may have.
        operation_kind: the operation that calls return: `google`: a long-running operation; `compute`: an operation of
            Compute Engine; `""`: none.
        is_update_immediate: whether an update returns the document even if other calls return an operation.
        has_labels: whether the resource has labels.
        has_attribution_label: whether a label marks the resource as created by Pulumi.
    """

    title: ClassVar[str]
    name_property: ClassVar[str] = "name"
    collection: ClassVar[str] = ""
    create_parameter: ClassVar[str] = ""
    update_method: ClassVar[Literal["mask", "patch", "put", ""]] = ""
    maskable: ClassVar[Sequence[str]] = ()
    operation_kind: ClassVar[Literal["google", "compute", ""]] = ""
    is_update_immediate: ClassVar[bool] = False
    has_labels: ClassVar[bool] = False
    has_attribution_label: ClassVar[bool] = True

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """POST the document and wait until the resource exists."""
        planned = self._plan(config, {}, news, preview=preview)
        if preview:
            return ResourceState("", planned)
        address = self.address(planned)
        path = self.collection.format(**planned) if self.collection else address.rpartition("/")[0]
        query = {self.create_parameter: str(planned[self.name_property])} if self.create_parameter else None
        try:
            response = config.send(call, "POST", self.endpoint, path, self.body(planned, {}), query=query)
            self._wait_for_operation(config, call, response, "Creating")
        except ApiError as error:
            if not error.is_created_by_earlier_attempt:
                raise ProviderError(f"Error creating {self.title}: {error}") from error
        except OperationError as error:
            raise ProviderError(f"Error waiting to create {self.title}: {error}") from error
        except CancelledError as error:
            raise PartialFailureError([str(error)], resource_id=address, properties=planned) from error
        self.after_create(config, call, address, planned)
        return ResourceState(address, self._state(planned, self.get(config, call, address)))

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Send the changes that concern the API."""
        planned = self._plan(config, olds, news, preview=preview)
        if preview:
            return planned
        try:
            self.send_update(config, call, resource_id, olds, planned)
        except (ApiError, OperationError) as error:
            raise ProviderError(f'Error updating {self.title} "{resource_id}": {error}') from error
        return self._state(planned, self.get(config, call, resource_id))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """GET the document."""
        parts = self.parse_id(config, resource_id)
        address = self.address({**state, **parts})
        try:
            body = self.get(config, call, address)
        except ApiError as error:
            if error.is_not_found:
                return None
            raise ProviderError(f'Error when reading or editing {self.title} "{address}": {error}') from error
        return None if self.is_deleted(body) else ResourceState(address, self._state({**parts, **state}, body))

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the resource and wait until it doesn't exist anymore."""
        if not should_delete(olds, self.title.lower()):
            return
        try:
            self.send_delete(config, call, resource_id, olds)
        except ApiError as error:
            if not error.is_not_found:
                raise ProviderError(f'Error when reading or editing {self.title} "{resource_id}": {error}') from error

    # Methods for a type to override.

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document to send."""
        body = to_wire(self.fields, planned)
        if self.has_labels and planned.get("effectiveLabels"):
            body["labels"] = planned["effectiveLabels"]
        return body

    def after_create(self, config: Api, call: Call, address: str, planned: Properties) -> None:
        """Make further calls after a creation."""

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """GET the current document."""
        return config.send(call, "GET", self.endpoint, address)

    def send_update(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Send the changes from *olds* to *planned* to the API."""
        changed = {re.split(r"[.\[]", path)[0] for path in diff(self.fields, olds, planned)}
        relabelled = self.has_labels and olds.get("effectiveLabels") != planned.get("effectiveLabels")
        wire_names = {field.name: field.wire for field in self.fields}
        if not self.update_method or not (relabelled or any(wire_names.get(name) for name in changed)):
            return
        query: dict[str, str] = {}
        if self.update_method == "mask":
            mask = [*self.update_mask(changed), *(["labels"] if relabelled else [])]
            if not mask:
                return
            query = {"updateMask": ",".join(mask)}
        method = "PUT" if self.update_method == "put" else "PATCH"
        response = config.send(call, method, self.endpoint, resource_id, self.body(planned, olds), query=query)
        if not self.is_update_immediate:
            self._wait_for_operation(config, call, response, "Updating")

    def update_mask(self, changed: Collection[str]) -> list[str]:
        """The paths for `updateMask` of the *changed* properties."""
        wire_names = {field.name: field.wire for field in self.fields}
        return [wire_names[name] for name in self.maskable if name in changed]

    def send_delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Send the request that deletes the resource."""
        response = config.send(call, "DELETE", self.endpoint, resource_id)
        self._wait_for_operation(config, call, response, "Deleting")

    def is_deleted(self, body: dict[str, Any]) -> bool:
        """Whether the document means that the resource doesn't exist anymore."""
        return False

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """Properties that the table can't read from the document; *prior* is the plan or the old state."""
        return {}

    def _plan(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        news = self.complete_inputs(api, news)
        planned = plan(self.fields, olds, news, unknown=preview)
        return (
            {**planned, **plan_labels(api, olds, news, has_attribution_label=self.has_attribution_label)}
            if self.has_labels
            else planned
        )

    def _state(self, prior: Properties, body: dict[str, Any]) -> Properties:
        local = {field.name: prior[field.name] for field in self.fields if not field.wire and field.name in prior}
        state = {**local, **from_wire(self.fields, body)}
        if any(field.name == "deletionPolicy" for field in self.fields):
            state = {"deletionPolicy": "DELETE", **state}
        if self.has_labels:
            state |= read_labels(prior, body)
        return fill_outputs(self.fields, {**state, **self.extra_properties(prior, body)})

    def _wait_for_operation(self, api: Api, call: Call, operation: dict[str, Any], activity: str) -> None:
        if self.operation_kind == "google":
            api.wait_for_operation(call, self.endpoint, operation, f"{activity} {self.title}")
        elif self.operation_kind == "compute":
            api.wait_for_compute_operation(call, self.endpoint, operation, f"{activity} {self.title}")
