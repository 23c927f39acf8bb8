"""gcp:projects/service:Service, an enabled API (docs/google-apis.md 1.5).

The real provider combines the APIs that are enabled within `batching.sendAfter` into one `batchEnable`. This one
enables each API by itself, as the real provider does for a single API.
"""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT, GcpResource, should_delete
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import boolean, text
from mcpfleet_local_cloud.plugins.resources import ResourceState
from mcpfleet_local_cloud.plugins.values import Properties, as_dict, as_list

PROJECT_SERVICE: Final = (
    text("service", required=True, force_new=True),
    PROJECT,
    boolean("checkIfServiceHasUsageOnDestroy", ""),
    DELETION_POLICY,
    boolean("disableDependentServices", ""),
    boolean("disableOnDestroy", ""),
)
_LIST_QUERY: Final = {"fields": "services/name,nextPageToken", "filter": "state:ENABLED", "pageSize": "200"}


class ProjectService(GcpResource):
    """An API that is enabled for a project."""

    type_name = "gcp:projects/service:Service"
    fields = PROJECT_SERVICE
    endpoint = "serviceUsageCustomEndpoint"
    id_format = "{project}/{service}"
    import_formats = ("{service}",)

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> ResourceState:
        """Enable the API unless it is enabled already, and wait until the list has it."""
        news = self.complete_inputs(config, news)
        if preview:
            return ResourceState("", self._state(news))
        address = self.address(news)
        project, service = str(news["project"]), str(news["service"])
        try:
            if service not in self._list_enabled(config, call, project):
                operation = self._send(config, call, "POST", f"projects/{project}/services/{service}:enable", {})
                config.wait_for_operation(call, self.endpoint, operation, "Enabling Project Services")
                while service not in self._list_enabled(config, call, project):
                    call.wait(0.5)
            self._check_project(config, call, project)
        except ApiError as error:
            raise ProviderError(f'Error when reading or editing Project Service "{address}": {error}') from error
        return ResourceState(address, self._state(news))

    def update(
        self,
        config: Api,
        call: Call,
        resource_id: str,
        olds: Properties,
        news: Properties,
        *,
        preview: bool,
    ) -> Properties:
        """The new state, without a call: only the settings for deletion can change."""
        return self._state(self.complete_inputs(config, news))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> ResourceState | None:
        """Find the API in the list of enabled APIs."""
        parts = self.parse_id(config, resource_id)
        address = self.address(parts)
        try:
            self._check_project(config, call, parts["project"])
            enabled = self._list_enabled(config, call, parts["project"])
        except ApiError as error:
            if error.is_not_found:
                return None
            raise ProviderError(f'Error when reading or editing Project Service "{address}": {error}') from error
        return ResourceState(address, self._state({**state, **parts})) if parts["service"] in enabled else None

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Disable the API if the program sets `disableOnDestroy`."""
        if not should_delete(olds, "project service") or not olds.get("disableOnDestroy"):
            return
        project, _, service = resource_id.partition("/")
        body = {
            "checkIfServiceHasUsage": "CHECK" if olds.get("checkIfServiceHasUsageOnDestroy") else "SKIP",
            "disableDependentServices": bool(olds.get("disableDependentServices")),
        }
        try:
            operation = self._send(config, call, "POST", f"projects/{project}/services/{service}:disable", body)
            config.wait_for_operation(call, self.endpoint, operation, "Disabling Project Services")
        except ApiError as error:
            if not error.is_not_found:
                raise ProviderError(f"Error disabling service {service!r} for project {project!r}: {error}") from error

    def _list_enabled(self, api: Api, call: Call, project: str) -> set[str]:
        names: set[str] = set()
        query = dict(_LIST_QUERY)
        while True:
            page = self._send(api, call, "GET", f"projects/{project}/services", query=query)
            names |= {
                str(service["name"]).rpartition("/")[2] for service in map(as_dict, as_list(page.get("services")))
            }
            if not page.get("nextPageToken"):
                return names
            query["pageToken"] = str(page["nextPageToken"])

    def _send(
        self, api: Api, call: Call, method: str, path: str, body: Any = None, *, query: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Send a request with `v1` as the base URL's last segment, as the Go client does except for operations."""
        return api.send(
            call, method, self.endpoint, path, body, query={"prettyPrint": "false", **(query or {})}, version="v1"
        )

    def _check_project(self, api: Api, call: Call, project: str) -> None:
        path = f"projects/{project}"
        response = api.send(call, "GET", "resourceManagerCustomEndpoint", path, query={"prettyPrint": "false"})
        if response.get("lifecycleState") == "DELETE_REQUESTED":
            raise ProviderError(f"project {project!r} is going to be deleted")

    def _state(self, prior: Properties) -> Properties:
        defaults: Properties = {"deletionPolicy": "DELETE"}
        return defaults | {
            field.name: prior[field.name] for field in PROJECT_SERVICE if prior.get(field.name) is not None
        }
