"""Resource types that are plain REST documents: what magic modules generates for most of the provider's resources.

A type says its table of properties and its URLs; creating, reading, updating and deleting follow. Where the real
resource does more, its class overrides one of the small methods at the end.
"""

import re
from collections.abc import Collection, Sequence
from typing import Any, ClassVar, Literal

from mcpfleet_local_cloud.plugins.bodies import from_wire, to_wire
from mcpfleet_local_cloud.plugins.call import Call, CancelledError, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.diffing import diff, plan
from mcpfleet_local_cloud.plugins.gcp.common import GcpResource, labelled, labels, may_delete, outputs
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError, OperationError
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties


class RestResource(GcpResource):
    """A REST document.

    Attributes:
        title: the resource in error texts, as the real provider has it (`Secret`).
        naming: the property that is the last part of its id.
        collection: where it is created, with the properties in braces; the id without its last part if empty.
        create_query: the parameter that carries the new resource's name; empty where the body does.
        updating: `mask`: PATCH with `updateMask`; `patch`: PATCH of everything; `put`: PUT; `""`: no call at all.
        masked: the properties that a mask may name.
        waiting: `google`: calls answer with a long-running operation; `compute`: with one of Compute Engine's; `""`.
        changed_at_once: whether an update answers with the document all the same.
        labelled: whether it has labels.
        attributed: whether one of them says that Pulumi made it.
        shown: what an answer's field of a property is called where it holds the full name (`selfLink`).
    """

    title: ClassVar[str]
    naming: ClassVar[str] = "name"
    collection: ClassVar[str] = ""
    create_query: ClassVar[str] = ""
    updating: ClassVar[Literal["mask", "patch", "put", ""]] = ""
    masked: ClassVar[Sequence[str]] = ()
    waiting: ClassVar[Literal["google", "compute", ""]] = ""
    changed_at_once: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    attributed: ClassVar[bool] = True

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """POST it and wait until it is there."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", planned)
        address = self.address(planned)
        where = self.collection.format(**planned) if self.collection else address.rpartition("/")[0]
        query = {self.create_query: str(planned[self.naming])} if self.create_query else None
        try:
            answer = config.send(call, "POST", self.endpoint, where, self.body(planned, {}), query=query)
            self._finish(config, call, answer, "Creating")
        except ApiError as error:
            if not error.exists_by_our_doing:
                raise ProviderError(f"Error creating {self.title}: {error}") from error
        except OperationError as error:
            raise ProviderError(f"Error waiting to create {self.title}: {error}") from error
        except CancelledError as error:
            raise PartialFailureError([str(error)], resource_id=address, properties=planned) from error
        self.after_create(config, call, address, planned)
        return Found(address, self._state(planned, self.get(config, call, address)))

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """Send what changed, if the API has to know of it."""
        planned = self._planned(config, olds, news, preview=preview)
        if preview:
            return planned
        try:
            self.change(config, call, resource_id, olds, planned)
        except (ApiError, OperationError) as error:
            raise ProviderError(f'Error updating {self.title} "{resource_id}": {error}') from error
        return self._state(planned, self.get(config, call, resource_id))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """GET it."""
        parts = self.parts(config, resource_id)
        address = self.address({**state, **parts})
        try:
            body = self.get(config, call, address)
        except ApiError as error:
            if error.missing:
                return None
            raise ProviderError(f'Error when reading or editing {self.title} "{address}": {error}') from error
        return None if self.gone(body) else Found(address, self._state({**parts, **state}, body))

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE it and wait until it is gone."""
        if not may_delete(olds, self.title.lower()):
            return
        try:
            self.remove(config, call, resource_id, olds)
        except ApiError as error:
            if not error.missing:
                raise ProviderError(f'Error when reading or editing {self.title} "{resource_id}": {error}') from error

    # What a type may do in its own way.

    def body(self, planned: Properties, olds: Properties) -> dict[str, Any]:
        """The document that is sent."""
        body = to_wire(self.fields, planned)
        if self.labelled and planned.get("effectiveLabels"):
            body["labels"] = planned["effectiveLabels"]
        return body

    def after_create(self, config: Api, call: Call, address: str, planned: Properties) -> None:
        """Further calls that a creation makes."""

    def get(self, config: Api, call: Call, address: str) -> dict[str, Any]:
        """The document as the API has it."""
        return config.send(call, "GET", self.endpoint, address)

    def change(self, config: Api, call: Call, resource_id: str, olds: Properties, planned: Properties) -> None:
        """Tell the API of the changes from *olds* to *planned*."""
        changed = {re.split(r"[.\[]", path)[0] for path in diff(self.fields, olds, planned)}
        relabelled = self.labelled and olds.get("effectiveLabels") != planned.get("effectiveLabels")
        wires = {one.name: one.wire for one in self.fields}
        if not self.updating or not (relabelled or any(wires.get(name) for name in changed)):
            return
        query: dict[str, str] = {}
        if self.updating == "mask":
            mask = [*self.mask(changed), *(["labels"] if relabelled else [])]
            if not mask:
                return
            query = {"updateMask": ",".join(mask)}
        method = "PUT" if self.updating == "put" else "PATCH"
        answer = config.send(call, method, self.endpoint, resource_id, self.body(planned, olds), query=query)
        if not self.changed_at_once:
            self._finish(config, call, answer, "Updating")

    def mask(self, changed: Collection[str]) -> list[str]:
        """The paths of an `updateMask` for these properties."""
        wires = {one.name: one.wire for one in self.fields}
        return [wires[name] for name in self.masked if name in changed]

    def remove(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Have the API remove it."""
        answer = config.send(call, "DELETE", self.endpoint, resource_id)
        self._finish(config, call, answer, "Deleting")

    def gone(self, body: dict[str, Any]) -> bool:
        """Whether the document says that the resource does not exist any more."""
        return False

    def further(self, known: Properties, body: dict[str, Any]) -> Properties:
        """Properties that the table alone does not give."""
        return {}

    def _planned(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        news = self.complete(api, news)
        planned = plan(self.fields, olds, news, unknown=preview)
        return {**planned, **labels(api, olds, news, attributed=self.attributed)} if self.labelled else planned

    def _state(self, known: Properties, body: dict[str, Any]) -> Properties:
        local = {one.name: known[one.name] for one in self.fields if not one.wire and one.name in known}
        found = {**local, **from_wire(self.fields, body)}
        if any(one.name == "deletionPolicy" for one in self.fields):
            found = {"deletionPolicy": "DELETE", **found}
        if self.labelled:
            found |= labelled(known, body)
        return outputs(self.fields, {**found, **self.further(known, body)})

    def _finish(self, api: Api, call: Call, answer: dict[str, Any], doing: str) -> None:
        if self.waiting == "google":
            api.finish(call, self.endpoint, answer, f"{doing} {self.title}")
        elif self.waiting == "compute":
            api.finish_compute(call, self.endpoint, answer, f"{doing} {self.title}")
