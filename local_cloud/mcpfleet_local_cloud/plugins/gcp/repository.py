"""gcp:artifactregistry/repository:Repository (google-apis.md section 1.2)."""

import re
from typing import Any, Final

from mcpfleet_local_cloud.plugins.call import Call, CancelledError, PartialFailureError, ProviderError
from mcpfleet_local_cloud.plugins.diffing import diff, plan
from mcpfleet_local_cloud.plugins.gcp.common import (
    DELETION_POLICY,
    PROJECT,
    GcpResource,
    labelled,
    labels,
    may_delete,
    outputs,
)
from mcpfleet_local_cloud.plugins.gcp.transport import Api, ApiError, OperationError
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, integer, mapping, text, texts
from mcpfleet_local_cloud.plugins.resources import Found
from mcpfleet_local_cloud.plugins.values import Properties
from mcpfleet_local_cloud.plugins.wire import from_wire, to_wire


def _remote(name: str, only: str) -> Field:
    """A public or custom upstream; all of it is fixed at creation."""
    custom = block("customRepository", [text("uri", force_new=True)], force_new=True)
    public = text("publicRepository", force_new=True, choices=(only,), conflicts=("customRepository",))
    return block(name, [public, custom], force_new=True)


_CREDENTIALS: Final = block(
    "upstreamCredentials",
    [block("usernamePasswordCredentials", [text("username"), text("passwordSecretVersion")])],
)
REPOSITORY: Final = (
    text("format", required=True, force_new=True, ignore_case=True),
    text("repositoryId", "", required=True, force_new=True),
    text("location", "", computed=True, force_new=True, config="region"),
    PROJECT,
    blocks(
        "cleanupPolicies",
        [
            text("id", required=True),
            text("action", choices=("DELETE", "KEEP")),
            block(
                "condition",
                [
                    text("newerThan"),
                    text("olderThan"),
                    texts("packageNamePrefixes"),
                    texts("tagPrefixes"),
                    text("tagState", default="ANY", choices=("TAGGED", "UNTAGGED", "ANY")),
                    texts("versionNamePrefixes"),
                ],
            ),
            block("mostRecentVersions", [integer("keepCount"), texts("packageNamePrefixes")]),
        ],
        ordered=False,
        wire_key="id",
    ),
    boolean("cleanupPolicyDryRun"),
    DELETION_POLICY,
    text("description"),
    block("dockerConfig", [boolean("immutableTags")]),
    text("kmsKeyName", force_new=True),
    mapping("labels", ""),
    block(
        "mavenConfig",
        [
            boolean("allowSnapshotOverwrites", force_new=True),
            text(
                "versionPolicy",
                default="VERSION_POLICY_UNSPECIFIED",
                force_new=True,
                choices=("VERSION_POLICY_UNSPECIFIED", "RELEASE", "SNAPSHOT"),
            ),
        ],
    ),
    text(
        "mode",
        default="STANDARD_REPOSITORY",
        force_new=True,
        choices=("STANDARD_REPOSITORY", "VIRTUAL_REPOSITORY", "REMOTE_REPOSITORY"),
    ),
    block(
        "remoteRepositoryConfig",
        [
            text("description", force_new=True),
            _remote("dockerRepository", "DOCKER_HUB"),
            _remote("mavenRepository", "MAVEN_CENTRAL"),
            _remote("npmRepository", "NPMJS"),
            _remote("pythonRepository", "PYPI"),
            _CREDENTIALS,
            boolean("disableUpstreamValidation"),
        ],
        conflicts=("virtualRepositoryConfig",),
    ),
    block(
        "virtualRepositoryConfig",
        [blocks("upstreamPolicies", [text("id"), integer("priority"), text("repository")])],
    ),
    block(
        "vulnerabilityScanningConfig",
        [
            text("enablementConfig", choices=("INHERITED", "DISABLED")),
            text("enablementState", output=True),
            text("enablementStateReason", output=True),
        ],
        computed=True,
    ),
    text("createTime", output=True),
    mapping("effectiveLabels", "", output=True),
    text("name", "", output=True),
    mapping("pulumiLabels", "", output=True),
    text("registryUri", output=True),
    text("updateTime", output=True),
)
_MASKED: Final = (
    "description",
    "dockerConfig",
    "mavenConfig",
    "virtualRepositoryConfig",
    "cleanupPolicies",
    "cleanupPolicyDryRun",
    "vulnerabilityScanningConfig",
)


class Repository(GcpResource):
    """An Artifact Registry repository; `registryUri` is what the API answers, word for word."""

    type_name = "gcp:artifactregistry/repository:Repository"
    fields = REPOSITORY
    endpoint = "artifactRegistryCustomEndpoint"
    id_form = "projects/{project}/locations/{location}/repositories/{repositoryId}"
    import_forms = ("{project}/{location}/{repositoryId}", "{location}/{repositoryId}", "{repositoryId}")

    def complete(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project and region."""
        news = super().complete(config, news)
        if news.get("location") is None and config.config.region:
            return {**news, "location": config.config.region}
        return news

    def create(self, config: Api, call: Call, name: str, news: Properties, *, preview: bool) -> Found:
        """POST the repository and wait for it."""
        planned = self._planned(config, {}, news, preview=preview)
        if preview:
            return Found("", {**planned, "name": planned["repositoryId"]})
        address = self.address(planned)
        parent, _, repository = address.rpartition("/")
        query = {"repository_id": repository}
        try:
            operation = config.send(call, "POST", self.endpoint, parent, self._body(planned), query=query)
            config.finish(call, self.endpoint, operation, "Creating Repository")
        except ApiError as error:
            if not error.exists_by_our_doing:
                raise ProviderError(f"Error creating Repository: {error}") from error
        except OperationError as error:  # it was not made
            raise ProviderError(f"Error waiting to create Repository: {error}") from error
        except CancelledError as error:  # the request may or may not have arrived
            raise PartialFailureError([str(error)], resource_id=address, properties=planned) from error
        return Found(address, self._state(planned, config.send(call, "GET", self.endpoint, address)))

    def update(
        self, config: Api, call: Call, resource_id: str, olds: Properties, news: Properties, *, preview: bool
    ) -> Properties:
        """PATCH what changed; nothing of the repository itself may have changed at all."""
        planned = self._planned(config, olds, news, preview=preview)
        if preview:
            return planned
        mask = self._mask(olds, planned)
        if mask:
            query = {"updateMask": ",".join(mask)}
            try:
                config.send(call, "PATCH", self.endpoint, resource_id, self._body(planned), query=query)
            except ApiError as error:
                raise ProviderError(f'Error updating Repository "{resource_id}": {error}') from error
        return self._state(planned, config.send(call, "GET", self.endpoint, resource_id))

    def read(self, config: Api, call: Call, resource_id: str, state: Properties) -> Found | None:
        """GET the repository."""
        parts = self.parts(config, resource_id)
        address = self.address(parts)
        try:
            return Found(address, self._state({**state, **parts}, config.send(call, "GET", self.endpoint, address)))
        except ApiError as error:
            if error.missing:
                return None
            raise ProviderError(f'Error when reading or editing Repository "{address}": {error}') from error

    def delete(self, config: Api, call: Call, resource_id: str, olds: Properties) -> None:
        """DELETE the repository and wait until it is gone."""
        if not may_delete(olds, "repository"):
            return
        try:
            operation = config.send(call, "DELETE", self.endpoint, resource_id)
            config.finish(call, self.endpoint, operation, "Deleting Repository")
        except ApiError as error:
            if not error.missing:
                raise ProviderError(f'Error when reading or editing Repository "{resource_id}": {error}') from error

    def _planned(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        news = self.complete(api, news)
        return {**plan(REPOSITORY, olds, news, unknown=preview), **labels(api, olds, news)}

    def _body(self, planned: Properties) -> dict[str, Any]:
        body = to_wire(REPOSITORY, planned)
        return {**body, "labels": planned["effectiveLabels"]} if planned.get("effectiveLabels") else body

    def _mask(self, olds: Properties, planned: Properties) -> list[str]:
        changed = {re.split(r"[.\[]", path)[0] for path in diff(REPOSITORY, olds, planned)}
        mask = [name for name in _MASKED if name in changed]
        if olds.get("effectiveLabels") != planned.get("effectiveLabels"):
            mask.append("labels")
        if "remoteRepositoryConfig" in changed:
            below = "remoteRepositoryConfig.upstreamCredentials.usernamePasswordCredentials"
            mask += [f"{below}.username", f"{below}.passwordSecretVersion"]
        return mask

    def _state(self, known: Properties, body: dict[str, Any]) -> Properties:
        local = {one.name: known[one.name] for one in REPOSITORY if not one.wire and one.name in known}
        found = {"deletionPolicy": "DELETE", **local, **from_wire(REPOSITORY, body), **labelled(known, body)}
        found["name"] = str(body.get("name", "")).rpartition("/")[2] or known["repositoryId"]
        return outputs(REPOSITORY, found)
