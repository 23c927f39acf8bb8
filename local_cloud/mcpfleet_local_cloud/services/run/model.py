"""Services and revisions of Cloud Run: what callers want, who may, and what there is."""

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
from mcpfleet_local_cloud.services.run.places import Location, missing, short
from mcpfleet_local_cloud.services.run.records import (
    LIVE,
    REVISION,
    SERVICE,
    Clock,
    new_revision,
    new_service,
    revisions_of,
    same,
    timestamp,
)
from mcpfleet_local_cloud.services.run.rollout import Rollouts, address, mark_retiring
from mcpfleet_local_cloud.services.run.workload import workload
from mcpfleet_local_cloud.state.store import Document, Store, StoreCache


@dataclass(frozen=True, kw_only=True)
class PatchOptions:
    """The query of a PATCH."""

    mask: str = ""
    allow_missing: bool = False
    validate_only: bool = False
    force_new_revision: bool = False


class RunModel:
    """Every Cloud Run service of this cloud. Answers are Google's documents; refusals are `GoogleError`."""

    def __init__(
        self,
        store: Store,
        operations: Operations,
        data_plane: DataPlane,
        policies: Policies,
        registry: Callable[[], str],
        *,
        accounts: ServiceAccounts,
        sources: InstanceData,
        networks: Compute,
        meshes: NetworkServices,
        now: Clock = timestamp,
        new_uid: Callable[[], str] = lambda: str(uuid4()),
    ) -> None:
        self.operations = operations
        self.policies = policies
        self._store = store
        self._doors = StoreCache[str, ServiceEndpoint](store)
        self._data_plane = data_plane
        self._accounts = accounts
        self._networks = networks
        self._meshes = meshes
        self._now = now
        self._new_uid = new_uid
        # What Artifact Registry is to Google's: its images are always allowed.
        self._registry = registry
        self._rollouts = Rollouts(store, operations, data_plane, policies, sources, now)

    # Services.

    def create(
        self, place: Location, service_id: str, service: Document, caller: str, *, validate_only: bool = False
    ) -> Document:
        """Begin to create a service; the operation.

        Raises:
            GoogleError: INVALID_ARGUMENT, ALREADY_EXISTS, PERMISSION_DENIED (the service account), UNIMPLEMENTED.
        """
        validation.check_service_id("CreateServiceRequest", service_id)
        if service.get("name"):
            raise invalid(
                "Violation in CreateServiceRequest.service: service.name must be empty on CreateServiceRequest."
            )
        name = place.service(service_id)
        if self._store.get(SERVICE, name) is not None:
            raise already_exists(service_id)
        spec = self._wish("CreateServiceRequest", place, service_id, service, caller)
        now = self._now()
        record = new_service(name, place.number, self._new_uid(), spec, caller, now)
        conditions.service_deploying(record, now)
        if validate_only:
            return self._validated(place, record)
        with self._store.transaction():
            self._want_new_revision(record, caller, now)
            return self._rollouts.deploy(record, str(place))

    def get(self, name: str) -> Document:
        """The service with that full name."""
        return self._render(self._existing(name))

    def services(self, place: Location) -> list[Document]:
        """Every service there, by name."""
        return [self._render(record) for _, record in self._store.list(SERVICE, f"{place}/services/")]

    def patch(
        self, place: Location, service_id: str, service: Document, caller: str, options: PatchOptions
    ) -> Document:
        """Begin to replace a service by *service*, whose absent fields get their defaults; the operation.

        Raises:
            GoogleError: as `create`; NOT_FOUND; ABORTED where the body's `etag` is out of date.
        """
        name = place.service(service_id)
        record = self._store.get(SERVICE, name)
        if record is None:
            if not options.allow_missing:
                raise missing(name)
            new = {field: value for field, value in service.items() if field != "name"}
            return self.create(place, service_id, new, caller, validate_only=options.validate_only)
        self._not_deleting(record)
        self._check_etag(record, service.get("etag", ""))
        wish = merge_masked_fields("run.v2", "Service", record["spec"], service, options.mask)
        spec = self._wish("UpdateServiceRequest", place, service_id, wish, caller)
        _check_functional_type(record["spec"], spec)
        changed = {**record, "spec": spec, "lastModifier": caller}
        if options.validate_only:
            return self._validated(place, changed)
        if same(record["spec"], spec) and not options.force_new_revision:
            if record.get("pending") and (running := self.operations.find(record["pending"]["operation"])):
                return running
            if record["terminalCondition"]["state"] == conditions.SUCCEEDED:
                return self._done(str(place), self._response(record))
        changed["generation"] = record["generation"] + 1
        changed["updateTime"] = now = self._now()
        with self._store.transaction():
            self._want_revision(changed, caller, now, force=options.force_new_revision)
            return self._rollouts.deploy(changed, str(place))

    def delete(self, name: str, etag: str = "", *, validate_only: bool = False) -> Document:
        """Begin to remove a service and its revisions; the operation.

        Raises:
            GoogleError: NOT_FOUND; ABORTED where *etag* is out of date.
        """
        record = self._existing(name)
        place = name.partition("/services/")[0]
        self._check_etag(record, etag)
        if validate_only:
            return self._done(place, self._response(record))
        if record.get("deleting"):
            running = self.operations.find(record["deleting"]["operation"])
            if running is not None and not running["done"]:
                return running
        with self._store.transaction():
            record["deleting"] = {"time": self._now()}
            return self._rollouts.remove(record, place)

    def check_exists(self, name: str) -> None:
        """Refuse, as NOT_FOUND, what is no service."""
        self._existing(name)

    # Revisions.

    def revisions(self, parent: str) -> list[Document]:
        """The revisions of the service with full name *parent*, newest first; its last part `-` means every service."""
        prefix = parent.removesuffix("-") if parent.endswith("/-") else f"{parent}/revisions/"
        if not parent.endswith("/-"):
            self._existing(parent)
        found = [record for _, record in self._store.list(REVISION, prefix)]
        found.sort(key=lambda record: (record["createTime"], record["name"]), reverse=True)
        return [render.revision(record) for record in found]

    def revision(self, name: str) -> Document:
        """The revision with that full name."""
        return render.revision(self._existing_revision(name))

    def delete_revision(self, name: str, etag: str = "", *, validate_only: bool = False) -> Document:
        """Forget a revision that does not serve; the finished operation.

        Raises:
            GoogleError: NOT_FOUND; FAILED_PRECONDITION where it serves, or may soon; ABORTED (the *etag*).
        """
        record = self._existing_revision(name)
        _check_version(name, etag, render.revision(record)["etag"])
        if record["state"] not in ("retired", "failed"):
            raise GoogleError(
                "FAILED_PRECONDITION",
                f'Revision "{short(name)}" cannot be directly deleted because it is actively serving.',
            )
        place = name.partition("/services/")[0]
        response = {"@type": render.REVISION_TYPE, **render.revision(record), "deleteTime": self._now()}
        with self._store.transaction():
            if not validate_only:
                self._store.delete(REVISION, name)
            return self._done(place, response)

    # For the rest of the cloud.

    def front_door(self, service: str) -> ServiceEndpoint | None:
        """What the ingress must know of the service with that full name; None where there is none (any more)."""
        door = self._doors.get(service)
        if door is None:
            record = self._store.get(SERVICE, service)
            if record is None or record.get("deleting"):
                return None
            door = self._front_door(record)
            if address(self._data_plane, service):  # else its port is another program's, and is tried again
                self._doors.put(service, door)
        return door

    def front_doors(self) -> list[ServiceEndpoint]:
        """The front door of every service."""
        records = [record for _, record in self._store.list(SERVICE)]
        return [self._front_door(record) for record in records if not record.get("deleting")]

    def workloads(self) -> list[Revision]:
        """What shall run, or may be about to: whatever else runs is left from a crash (`DockerDataPlane.sweep`)."""
        return [
            workload(revision, record["spec"].get("scaling", {}))
            for name, record in self._store.list(SERVICE)
            if not record.get("deleting")
            for revision in revisions_of(self._store, name)
            if revision["state"] in LIVE
        ]

    async def recover(self) -> None:
        """At start: finish what a `kill -9` interrupted and bring every ready revision up again."""
        await self._rollouts.recover()

    async def close(self) -> None:
        """Stop working, without finishing: `recover` takes it up when the cloud starts again."""
        await self._rollouts.close()

    async def drained(self) -> None:
        """Wait until no replaced revision is left running."""
        await self._rollouts.drained()

    def inventory(self) -> list[Document]:
        """What there is, for people: each service with its revisions and their states."""
        return [
            {
                "name": record["name"],
                "uri": address(self._data_plane, record["name"]),
                "state": record["terminalCondition"]["state"],
                "latestReadyRevision": short(record.get("latestReadyRevision") or ""),
                "revisions": [
                    {"name": short(one["name"]), "state": one["state"], "image": one.get("digest", "")}
                    for one in revisions_of(self._store, name)
                ],
            }
            for name, record in self._store.list(SERVICE)
        ]

    # How a wish becomes a record.

    def _wish(self, request: str, place: Location, service_id: str, service: Document, caller: str) -> Document:
        """The complete spec for *service*, once everything about it was found good."""
        validation.check(request, service_id, service, frozenset({self._registry()}))
        unsupported.check(service)
        account = f"{place.number}-compute@developer.gserviceaccount.com"
        spec = defaults.complete(
            {field: value for field, value in service.items() if field not in ("name", "etag")}, account
        )
        self._connect(spec["template"], place)
        mesh = spec["template"].get("serviceMesh", {}).get("mesh", "")
        if mesh and not self._meshes.exists(mesh):
            raise invalid(f"Violation in {request}.service.template.service_mesh.mesh: {mesh} was not found.")
        self._check_account(spec["template"]["serviceAccount"], place.project, caller)
        return spec

    def _connect(self, template: Document, place: Location) -> None:
        """Complete the network interface, whose network must exist."""
        access: Document = template.get("vpcAccess", {})
        for interface in access.get("networkInterfaces", []):
            network, subnetwork = self._networks.network_of(
                place.project, place.region, interface.get("network", ""), interface.get("subnetwork", "")
            )
            interface |= {"network": network, "subnetwork": subnetwork}

    def _check_account(self, account: str, project: str, caller: str) -> None:
        """Google says the same whether there is no such account or the caller may not use it."""
        resource = f"projects/{project}/serviceAccounts/{account}"
        allowed = self._policies_allow(caller, resource)
        if not self._accounts.exists(account) or not allowed:
            raise GoogleError(
                "PERMISSION_DENIED",
                f"Permission 'iam.serviceaccounts.actAs' denied on service account {account} (or it may not exist).",
            )

    def _policies_allow(self, caller: str, resource: str) -> bool:
        return self.policies.allows(caller, "iam.serviceAccounts.actAs", resource)

    def _want_revision(self, record: Document, caller: str, now: str, *, force: bool) -> None:
        """Note which revision shall serve: the newest one where it has this very template and did not fail."""
        latest = self._store.get(REVISION, record.get("latestCreatedRevision") or "")
        usable = latest is not None and latest["state"] in LIVE
        if latest is None or not usable or force or not same(latest["template"], record["spec"]["template"]):
            self._want_new_revision(record, caller, now)
            return
        record["pending"] = {"generation": record["generation"], "revision": latest["name"]}
        if latest["state"] == "starting" or record["terminalCondition"]["state"] != conditions.SUCCEEDED:
            conditions.service_deploying(record, now)

    def _want_new_revision(self, record: Document, caller: str, now: str) -> None:
        revision = new_revision(record, self._new_uid(), caller, now)
        if self._store.get(REVISION, revision["name"]) is not None:
            raise GoogleError(
                "ALREADY_EXISTS",
                f"Revision named '{short(revision['name'])}' with different configuration already exists.",
            )
        for older in revisions_of(self._store, record["name"]):
            if older["state"] == "starting":  # nobody waits for it any more
                mark_retiring(older, now)
                self._store.put(REVISION, older["name"], older)
        conditions.revision(revision, now, conditions.RECONCILING, "Deploying Revision.")
        self._store.put(REVISION, revision["name"], revision)
        record["latestCreatedRevision"] = revision["name"]
        record["pending"] = {"generation": record["generation"], "revision": revision["name"]}
        conditions.service_deploying(record, now)

    # Small things.

    def _existing(self, name: str) -> Document:
        record = self._store.get(SERVICE, name)
        if record is None:
            raise missing(name)
        return record

    def _existing_revision(self, name: str) -> Document:
        record = self._store.get(REVISION, name)
        if record is None:
            raise missing(name, "REVISION")
        return record

    def _check_etag(self, record: Document, etag: str) -> None:
        _check_version(record["name"], etag, render.service_etag(record))

    def _done(self, place: str, response: Document) -> Document:
        return self.operations.add_finished(place, response, response)

    def _not_deleting(self, record: Document) -> None:
        if record.get("deleting"):
            raise GoogleError("ABORTED", f"Resource '{short(record['name'])}' is being deleted.")

    def _validated(self, place: Location, record: Document) -> Document:
        response: dict[str, Any] = {"@type": render.SERVICE_TYPE, **render.service(record, "")}
        return self._done(str(place), response)

    def _render(self, record: Document) -> Document:
        return render.service(record, address(self._data_plane, record["name"]))

    def _response(self, record: Document) -> Document:
        return {"@type": render.SERVICE_TYPE, **self._render(record)}

    def _front_door(self, record: Document) -> ServiceEndpoint:
        spec: Document = record["spec"]
        urls = render.urls(record, address(self._data_plane, record["name"]))
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


def _check_functional_type(before: Document, after: Document) -> None:
    kind = before.get("functionalType", "FUNCTIONAL_TYPE_UNSPECIFIED")
    if kind not in ("FUNCTIONAL_TYPE_UNSPECIFIED", after.get("functionalType")):
        raise invalid(
            "Violation in UpdateServiceRequest.service.functional_type: is immutable once it is set: it is "
            f"{kind}. Delete the service and create it anew to change it."
        )


def _check_version(name: str, given: str, current: str) -> None:
    if given and given != current:
        raise GoogleError(
            "ABORTED",
            f"Conflict for resource '{short(name)}': version '{given}' was specified but current version is "
            f"'{current}'.",
        )
