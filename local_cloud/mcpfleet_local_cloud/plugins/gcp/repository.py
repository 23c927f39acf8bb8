"""gcp:artifactregistry/repository:Repository (docs/google-apis.md 1.2)."""

from collections.abc import Collection
from typing import Any, Final

from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.gcp.rest import RestResource
from mcpfleet_local_cloud.plugins.gcp.transport import Api
from mcpfleet_local_cloud.plugins.properties import Field, block, blocks, boolean, integer, mapping, text, texts
from mcpfleet_local_cloud.plugins.values import Properties


def _upstream(name: str, public_choice: str) -> Field:
    """The property *name* for a public or custom upstream, which can't change."""
    custom = block("customRepository", [text("uri", force_new=True)], force_new=True)
    public = text("publicRepository", force_new=True, choices=(public_choice,), conflicts=("customRepository",))
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
            _upstream("dockerRepository", "DOCKER_HUB"),
            _upstream("mavenRepository", "MAVEN_CENTRAL"),
            _upstream("npmRepository", "NPMJS"),
            _upstream("pythonRepository", "PYPI"),
            _CREDENTIALS,
            boolean("disableUpstreamValidation"),
            block("noCache", [], send_empty=True),
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


class Repository(RestResource):
    """An Artifact Registry repository; `registryUri` is unchanged from the API's response."""

    type_name = "gcp:artifactregistry/repository:Repository"
    fields = REPOSITORY
    endpoint = "artifactRegistryCustomEndpoint"
    id_format = "projects/{project}/locations/{location}/repositories/{repositoryId}"
    import_formats = ("{project}/{location}/{repositoryId}", "{location}/{repositoryId}", "{repositoryId}")
    title = "Repository"
    name_property = "repositoryId"
    create_parameter = "repository_id"
    update_method = "mask"
    maskable = (
        "description",
        "dockerConfig",
        "mavenConfig",
        "virtualRepositoryConfig",
        "cleanupPolicies",
        "cleanupPolicyDryRun",
        "vulnerabilityScanningConfig",
    )
    operation_kind = "google"
    is_update_immediate = True
    has_labels = True

    def complete_inputs(self, config: Api, news: Properties) -> Properties:
        """The inputs with the provider's project and region."""
        news = super().complete_inputs(config, news)
        if news.get("location") is None and config.config.region:
            return {**news, "location": config.config.region}
        return news

    def update_mask(self, changed: Collection[str]) -> list[str]:
        """The paths for `updateMask`; only the credentials of an upstream can change."""
        prefix = "remoteRepositoryConfig.upstreamCredentials.usernamePasswordCredentials"
        credentials = [f"{prefix}.username", f"{prefix}.passwordSecretVersion"]
        return super().update_mask(changed) + (credentials if "remoteRepositoryConfig" in changed else [])

    def extra_properties(self, prior: Properties, body: dict[str, Any]) -> Properties:
        """The name, which is the repository's id."""
        return {"name": str(body.get("name", "")).rpartition("/")[2] or prior["repositoryId"]}

    def _plan(self, api: Api, olds: Properties, news: Properties, *, preview: bool) -> Properties:
        planned = super()._plan(api, olds, news, preview=preview)
        return {**planned, "name": planned["repositoryId"]}
