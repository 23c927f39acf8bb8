"""Services and revisions of Cloud Run: validates requests and stores the desired state."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from mcpfleet_local_cloud.data_plane.contract import DataPlane, InstanceData, Revision, ServiceEndpoint
from mcpfleet_local_cloud.identity.policy import Policies
from mcpfleet_local_cloud.rest.errors import GoogleError, already_exists, invalid
from mcpfleet_local_cloud.rest.masks import merge_masked_fields
from mcpfleet_local_cloud.rest.operations import Operations
from mcpfleet_local_cloud.services.compute.model import Compute
from mcpfleet_local_cloud.services.iam.model import ServiceAccounts
from mcpfleet_local_cloud.services.networkservices.model import NetworkServices
from mcpfleet_local_cloud.services.run import conditions, defaults, render, unsupported, validation
from mcpfleet_local_cloud.services.run.locations import Location, not_found_error, short_name
from mcpfleet_local_cloud.services.run.records import (
    LIVE_STATES,
    REVISION,
    SERVICE,
    Clock,
    current_timestamp,
    is_same_spec,
    new_revision,
    new_service,
    revisions_of,
)
from mcpfleet_local_cloud.services.run.rollout import Rollouts, find_address, mark_retiring
from mcpfleet_local_cloud.services.run.workload import build_workload
from mcpfleet_local_cloud.state.store import Document, Store, StoreCache


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """The query parameters of a PATCH."""

    mask: str = ""
    allow_missing: bool = False
    validate_only: bool = False
    force_new_revision: bool = False


class RunModel:
    """All Cloud Run services of this cloud. Results are Google's documents, errors are `GoogleError`."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        data_plane: DataPlane,
        policies: Policies,
        registry: Callable[[], str],
        *,
        accounts: ServiceAccounts,
        instance_data: InstanceData,
        networks: Compute,
        meshes: NetworkServices,
        clock: Clock = current_timestamp,
        new_uid: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self.operations = operations
        self.policies = policies
        self._store = store
        self._endpoints = StoreCache[str, ServiceEndpoint](store)
        self._data_plane = data_plane
        self._accounts = accounts
        self._networks = networks
        self._meshes = meshes
        self._now = clock
        self._new_uid = new_uid
        # The local Artifact Registry, whose images are always allowed.
        self._registry = registry
        self._rollouts = Rollouts(store, operations, data_plane, policies, instance_data, clock)

    # Services.

    def create(
        self, location: Location, service_id: str, service: Document, caller: str, *, validate_only: bool = False
    ) -> Document:
        """Start to create a service; return the operation.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, PERMISSION_DENIED (the service account), UNIMPLEMENTED.
        """
        validation.check_service_id("CreateServiceRequest", service_id)
        if service.get("name"):
            raise invalid(
                "Violation in CreateServiceRequest.service: service.name must be empty on CreateServiceRequest."
            )
        name = location.service_name(service_id)
        if self._store.get(SERVICE, name) is not None:
            raise already_exists(service_id)
        spec = self._validate_spec("CreateServiceRequest", location, service_id, service, caller)
        now = self._now()
        record = new_service(name, location.number, self._new_uid(), spec, caller, now)
        conditions.set_service_deploying(record, now)
        if validate_only:
            return self._reply_validated(location, record)
        with self._store.transaction():
            self._create_revision(record, caller, now)
            return self._rollouts.deploy(record, str(location))

    def get(self, name: str) -> Document:
        """Return the service with that full name."""
        return self._render(self._find_existing(name))

    def services(self, location: Location) -> list[Document]:
        """List the services of *location*, sorted by name."""
        return [self._render(record) for _, record in self._store.list(SERVICE, f"{location}/services/")]

    def patch(
        self, location: Location, service_id: str, service: Document, caller: str, options: PatchOptions
    ) -> Document:
        """Start to replace a service by *service*, whose absent fields get their defaults; return the operation.

        Raises:
            GoogleError: as for `create`; NOT_FOUND; ABORTED if the body's `etag` is outdated.
        """
        name = location.service_name(service_id)
        record = self._store.get(SERVICE, name)
        if record is None:
            if not options.allow_missing:
                raise not_found_error(name)
            fields = {field: value for field, value in service.items() if field != "name"}
            return self.create(location, service_id, fields, caller, validate_only=options.validate_only)
        self._check_not_deleting(record)
        self._check_etag(record, service.get("etag", ""))
        merged = merge_masked_fields("run.v2", "Service", record["spec"], service, options.mask)
        spec = self._validate_spec("UpdateServiceRequest", location, service_id, merged, caller)
        _check_functional_type(record["spec"], spec)
        updated = {**record, "spec": spec, "lastModifier": caller}
        if options.validate_only:
            return self._reply_validated(location, updated)
        if is_same_spec(record["spec"], spec) and not options.force_new_revision:
            if record.get("pending") and (running := self.operations.find(record["pending"]["operation"])):
                return running
            if record["terminalCondition"]["state"] == conditions.SUCCEEDED:
                return self._finish_operation(str(location), self._response(record))
        updated["generation"] = record["generation"] + 1
        updated["updateTime"] = now = self._now()
        with self._store.transaction():
            self._set_target_revision(updated, caller, now, force=options.force_new_revision)
            return self._rollouts.deploy(updated, str(location))

    def delete(self, name: str, etag: str = "", *, validate_only: bool = False) -> Document:
        """Start to delete a service and its revisions; return the operation.

        Raises:
            GoogleError: NOT_FOUND; ABORTED if *etag* is outdated.
        """
        record = self._find_existing(name)
        location = name.partition("/services/")[0]
        self._check_etag(record, etag)
        if validate_only:
            return self._finish_operation(location, self._response(record))
        if record.get("deleting"):
            running = self.operations.find(record["deleting"]["operation"])
            if running is not None and not running["done"]:
                return running
        with self._store.transaction():
            record["deleting"] = {"time": self._now()}
            return self._rollouts.remove(record, location)

    def check_exists(self, name: str) -> None:
        """Check that the service exists.

        Raises:
            GoogleError: NOT_FOUND.
        """
        self._find_existing(name)

    # Revisions.

    def revisions(self, parent: str) -> list[Document]:
        """List the revisions of the service *parent* (full name), newest first; `/-` at its end means all services."""
        prefix = parent.removesuffix("-") if parent.endswith("/-") else f"{parent}/revisions/"
        if not parent.endswith("/-"):
            self._find_existing(parent)
        records = [record for _, record in self._store.list(REVISION, prefix)]
        records.sort(key=lambda record: (record["createTime"], record["name"]), reverse=True)
        return [render.render_revision(record) for record in records]

    def revision(self, name: str) -> Document:
        """Return the revision with that full name."""
        return render.render_revision(self._existing_revision(name))

    def delete_revision(self, name: str, etag: str = "", *, validate_only: bool = False) -> Document:
        """Delete a revision that does not serve; return the finished operation.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION if it serves or is starting; ABORTED if *etag* is outdated.
        """
        record = self._existing_revision(name)
        _check_current(name, etag, render.render_revision(record)["etag"])
        if record["state"] not in ("retired", "failed"):
            raise GoogleError(
                "FAILED_PRECONDITION",
                f'Revision "{short_name(name)}" cannot be directly deleted because it is actively serving.',
            )
        location = name.partition("/services/")[0]
        response = {"@type": render.REVISION_TYPE, **render.render_revision(record), "deleteTime": self._now()}
        with self._store.transaction():
            if not validate_only:
                self._store.delete(REVISION, name)
            return self._finish_operation(location, response)

    # For other parts of the cloud.

    def find_endpoint(self, service: str) -> ServiceEndpoint | None:
        """Return the endpoint of the service with that full name for the ingress, or None."""
        endpoint = self._endpoints.get(service)
        if endpoint is None:
            record = self._store.get(SERVICE, service)
            if record is None or record.get("deleting"):
                return None
            endpoint = self._build_endpoint(record)
            if find_address(
                self._data_plane, service
            ):  # otherwise another program uses its port, and the next call tries again
                self._endpoints.put(service, endpoint)
        return endpoint

    def endpoints(self) -> list[ServiceEndpoint]:
        """List the endpoints of all services."""
        records = [record for _, record in self._store.list(SERVICE)]
        return [self._build_endpoint(record) for record in records if not record.get("deleting")]

    def workloads(self) -> list[Revision]:
        """List the revisions that run or will run; other containers are left from a crash (`DockerDataPlane.sweep`)."""
        return [
            build_workload(revision, record["spec"].get("scaling", {}))
            for name, record in self._store.list(SERVICE)
            if not record.get("deleting")
            for revision in revisions_of(self._store, name)
            if revision["state"] in LIVE_STATES
        ]

    async def recover(self) -> None:
        """At start, finish the work that a `kill -9` interrupted, and start every ready revision again."""
        await self._rollouts.recover()

    async def close(self) -> None:
        """Stop all work without finishing it: `recover` continues it when the cloud starts again."""
        await self._rollouts.close()

    async def wait_drained(self) -> None:
        """Wait until no replaced revision is running."""
        await self._rollouts.wait_drained()

    def inventory(self) -> list[Document]:
        """List each service with its revisions and their states, for users to read."""
        return [
            {
                "name": record["name"],
                "uri": find_address(self._data_plane, record["name"]),
                "state": record["terminalCondition"]["state"],
                "latestReadyRevision": short_name(record.get("latestReadyRevision") or ""),
                "revisions": [
                    {
                        "name": short_name(revision["name"]),
                        "state": revision["state"],
                        "image": revision.get("digest", ""),
                    }
                    for revision in revisions_of(self._store, name)
                ],
            }
            for name, record in self._store.list(SERVICE)
        ]

    # From a request to a record.

    def _validate_spec(
        self, request: str, location: Location, service_id: str, service: Document, caller: str
    ) -> Document:
        """Validate *service* and return its complete spec."""
        validation.check(request, service_id, service, frozenset({self._registry()}))
        unsupported.check(service)
        account = f"{location.number}-compute@developer.gserviceaccount.com"
        spec = defaults.apply_defaults(
            {field: value for field, value in service.items() if field not in ("name", "etag")}, account
        )
        self._complete_network(spec["template"], location)
        mesh = spec["template"].get("serviceMesh", {}).get("mesh", "")
        if mesh and not self._meshes.exists(mesh):
            raise invalid(f"Violation in {request}.service.template.service_mesh.mesh: {mesh} was not found.")
        self._check_account(spec["template"]["serviceAccount"], location.project, caller)
        return spec

    def _complete_network(self, template: Document, location: Location) -> None:
        """Complete the network interface and check that its network exists."""
        access: Document = template.get("vpcAccess", {})
        for interface in access.get("networkInterfaces", []):
            network, subnetwork = self._networks.find_network(
                location.project, location.region, interface.get("network", ""), interface.get("subnetwork", "")
            )
            interface |= {"network": network, "subnetwork": subnetwork}

    def _check_account(self, account: str, project: str, caller: str) -> None:
        """Check the service account. Google's error is the same for a missing account and a missing permission."""
        resource = f"projects/{project}/serviceAccounts/{account}"
        allowed = self._may_act_as(caller, resource)
        if not self._accounts.exists(account) or not allowed:
            raise GoogleError(
                "PERMISSION_DENIED",
                f"Permission 'iam.serviceaccounts.actAs' denied on service account {account} (or it may not exist).",
            )

    def _may_act_as(self, caller: str, resource: str) -> bool:
        return self.policies.allows(caller, "iam.serviceAccounts.actAs", resource)

    def _set_target_revision(self, record: Document, caller: str, now: str, *, force: bool) -> None:
        """Set the target revision: the newest one if it has the same template and has not failed, else a new one."""
        latest = self._store.get(REVISION, record.get("latestCreatedRevision") or "")
        usable = latest is not None and latest["state"] in LIVE_STATES
        if latest is None or not usable or force or not is_same_spec(latest["template"], record["spec"]["template"]):
            self._create_revision(record, caller, now)
            return
        record["pending"] = {"generation": record["generation"], "revision": latest["name"]}
        if latest["state"] == "starting" or record["terminalCondition"]["state"] != conditions.SUCCEEDED:
            conditions.set_service_deploying(record, now)

    def _create_revision(self, record: Document, caller: str, now: str) -> None:
        revision = new_revision(record, self._new_uid(), caller, now)
        if self._store.get(REVISION, revision["name"]) is not None:
            raise GoogleError(
                "ALREADY_EXISTS",
                f"Revision named '{short_name(revision['name'])}' with different configuration already exists.",
            )
        for older in revisions_of(self._store, record["name"]):
            if older["state"] == "starting":  # a newer revision replaces it
                mark_retiring(older, now)
                self._store.put(REVISION, older["name"], older)
        conditions.set_revision_condition(revision, now, conditions.RECONCILING, "Deploying Revision.")
        self._store.put(REVISION, revision["name"], revision)
        record["latestCreatedRevision"] = revision["name"]
        record["pending"] = {"generation": record["generation"], "revision": revision["name"]}
        conditions.set_service_deploying(record, now)

    # Helpers.

    def _find_existing(self, name: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None:
            raise not_found_error(name)
        return record

    def _existing_revision(self, name: str) -> Document:
        record = self._store.get(REVISION, name)
        if record is None:
            raise not_found_error(name, "REVISION")
        return record

    def _check_etag(self, record: Document, etag: str) -> None:
        _check_current(record["name"], etag, render.service_etag(record))

    def _finish_operation(self, location: str, response: Document) -> Document:
        return self.operations.add_finished(location, response, response)

    def _check_not_deleting(self, record: Document) -> None:
        if record.get("deleting"):
            raise GoogleError("ABORTED", f"Resource '{short_name(record['name'])}' is being deleted.")

    def _reply_validated(self, location: Location, record: Document) -> Document:
        response: dict[str, Any] = {"@type": render.SERVICE_TYPE, **render.render_service(record, "")}
        return self._finish_operation(str(location), response)

    def _render(self, record: Document) -> Document:
        return render.render_service(record, find_address(self._data_plane, record["name"]))

    def _response(self, record: Document) -> Document:
        return {"@type": render.SERVICE_TYPE, **self._render(record)}

    def _build_endpoint(self, record: Document) -> ServiceEndpoint:
        spec: Document = record["spec"]
        urls = render.urls(record, find_address(self._data_plane, record["name"]))
        plain = [url.rstrip("/") for url in urls]
        return ServiceEndpoint(
            service=record["name"],
            audiences=frozenset([*plain, *(f"{url}/" for url in plain), *spec.get("customAudiences", [])]),
            hosts=frozenset([render.deterministic_host(record)]),
            default_uri=not spec.get("defaultUriDisabled", False),
            iap=spec.get("iapEnabled", False),
            invoker_iam_disabled=spec.get("invokerIamDisabled", False),
            ingress=spec["ingress"],
        )


def _check_functional_type(previous: Document, current: Document) -> None:
    functional_type = previous.get("functionalType", "FUNCTIONAL_TYPE_UNSPECIFIED")
    if functional_type not in ("FUNCTIONAL_TYPE_UNSPECIFIED", current.get("functionalType")):
        raise invalid(
            "Violation in UpdateServiceRequest.service.functional_type: is immutable once it is set: it is "
            f"{functional_type}. Delete the service and create it anew to change it."
        )


def _check_current(name: str, etag: str, current: str) -> None:
    if etag and etag != current:
        raise GoogleError(
            "ABORTED",
            f"Conflict for resource '{short_name(name)}': version '{etag}' was specified but current version is "
            f"'{current}'.",
        )
