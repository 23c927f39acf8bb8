"""gcp:projects/service:Service, an enabled API (docs/google-apis.md 1.5).

The real provider gathers the APIs that are enabled within `batching.sendAfter` into one `batchEnable`; this one asks
for each alone, as the real one does when nothing else is waiting.
"""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, ProviderError
from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT, GcpResource, may_delete
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError
from mcpfleet_local_cloud.plugins.properties import boolean, text
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties, items, table

PROJECT_SERVICE: Final = (
    text("service", required=True, force_new=True),
    PROJECT,
    boolean("checkIfServiceHasUsageOnDestroy", ""),
    DELETION_POLICY,
    boolean("disableDependentServices", ""),
    boolean("disableOnDestroy", ""),
)
_LIST: Final = {"fields": "services/name,nextPageToken", "filter": "state:ENABLED", "pageSize": "200"}


class ProjectService(GcpResource):
    """An API that a project uses."""

    type_name = "gcp:projects/service:Service"
    fields = PROJECT_SERVICE
    endpoint = "serviceUsageCustomEndpoint"
    id_form = "{project}/{service}"
    import_forms = ("{service}",)

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """Enable the API unless it is enabled already, and see it in the list."""
        news = self.complete(config, news)
        if preview:
            return Found("", self._state(news))
        address = self.address(news)
        project, service = str(news["project"]), str(news["service"])
        try:
            if service not in self._enabled(config, call, project):
                operation = self._send(config, call, "POST", f"projects/{project}/services/{service}:enable", {})
                config.finish(call, self.endpoint, operation, "Enabling Project Services")
                while service not in self._enabled(config, call, project):
                    call.wait(0.5)
            self._project(config, call, project)
        except ApiError as error:
            raise ProviderError(f'Error when reading or editing Project Service "{address}": {error}') from error
        return Found(address, self._state(news))

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
        """Nothing of it is the API's business: all that can change is what happens on deletion."""
        return self._state(self.complete(config, news))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """Look for the API in the list of enabled ones."""
        parts = self.parts(config, resource_id)
        address = self.address(parts)
        try:
            self._project(config, call, parts["project"])
            enabled = self._enabled(config, call, parts["project"])
        except ApiError as error:
            if error.missing:
                return None
            raise ProviderError(f'Error when reading or editing Project Service "{address}": {error}') from error
        return Found(address, self._state({**state, **parts})) if parts["service"] in enabled else None

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """Disable the API, if the program asked for that; otherwise only forget it."""
        if not may_delete(olds, "project service") or not olds.get("disableOnDestroy"):
            return
        project, _, service = resource_id.partition("/")
        body = {
            "checkIfServiceHasUsage": "CHECK" if olds.get("checkIfServiceHasUsageOnDestroy") else "SKIP",
            "disableDependentServices": bool(olds.get("disableDependentServices")),
        }
        try:
            operation = self._send(config, call, "POST", f"projects/{project}/services/{service}:disable", body)
            config.finish(call, self.endpoint, operation, "Disabling Project Services")
        except ApiError as error:
            if not error.missing:
                raise ProviderError(f"Error disabling service {service!r} for project {project!r}: {error}") from error

    def _enabled(self, api: Api, call: Call, project: str) -> set[str]:
        names: set[str] = set()
        query = dict(_LIST)
        while True:
            page = self._send(api, call, "GET", f"projects/{project}/services", query=query)
            names |= {str(one["name"]).rpartition("/")[2] for one in map(table, items(page.get("services")))}
            if not page.get("nextPageToken"):
                return names
            query["pageToken"] = str(page["nextPageToken"])

    def _send(
        self, api: Api, call: Call, method: str, path: str, body: Any = None, *, query: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """The Go client replaces the last segment of the configured base URL by `v1`; operations do not."""
        return api.send(
            call, method, self.endpoint, path, body, query={"prettyPrint": "false", **(query or {})}, version="v1"
        )

    def _project(self, api: Api, call: Call, project: str) -> None:
        path = f"projects/{project}"
        found = api.send(call, "GET", "resourceManagerCustomEndpoint", path, query={"prettyPrint": "false"})
        if found.get("lifecycleState") == "DELETE_REQUESTED":
            raise ProviderError(f"project {project!r} is going to be deleted")

    def _state(self, known: Properties) -> Properties:
        defaults: Properties = {"deletionPolicy": "DELETE"}
        return defaults | {one.name: known[one.name] for one in PROJECT_SERVICE if known.get(one.name) is not None}
