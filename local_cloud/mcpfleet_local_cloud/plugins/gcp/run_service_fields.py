"""The properties of gcp:cloudrunv2/service:Service.

They are from TPG services/cloudrunv2/resource_cloud_run_v2_service.go (optional, computed, default, ForceNew) and from
the pulumi_gcp 10.2.0 SDK (Pulumi's names, and newer fields). An update sends `computed` values back as the server set
them.
"""

from typing import Any, Final

from mcpfleet_local_cloud.plugins.gcp.common import DELETION_POLICY, PROJECT
from mcpfleet_local_cloud.plugins.properties import (
    Field,
    block,
    blocks,
    boolean,
    integer,
    mapping,
    number,
    text,
    texts,
)

_HEADERS: Final = blocks("httpHeaders", [text("name", required=True), text("value", default="", send_empty=True)])
_GRPC: Final = block("grpc", [integer("port", computed=True), text("service")], send_empty=True)
_TIMING: Final = (
    integer("failureThreshold", default=3),
    integer("initialDelaySeconds", default=0),
    integer("periodSeconds", default=10),
    integer("timeoutSeconds", default=1),
)
_HTTP_GET: Final = block(
    "httpGet", [_HEADERS, text("path", default="/"), integer("port", computed=True)], send_empty=True
)


def _tcp(port: Field, **attributes: Any) -> Field:
    return block("tcpSocket", [port], **attributes)


_LIVENESS: Final = (*_TIMING, _GRPC, _HTTP_GET, _tcp(integer("port", required=True)))
_STARTUP: Final = (*_TIMING, _GRPC, _HTTP_GET, _tcp(integer("port", computed=True), send_empty=True))
_READINESS: Final = (
    integer("failureThreshold", computed=True),
    integer("periodSeconds", computed=True),
    integer("successThreshold", computed=True),
    integer("timeoutSeconds", computed=True),
    _GRPC,
    block("httpGet", [text("path", computed=True), integer("port", computed=True)], send_empty=True),
)
_SECRET_KEY_REF: Final = block("secretKeyRef", [text("secret", required=True), text("version")])
_MOUNTS: Final = blocks(
    "volumeMounts", [text("mountPath", required=True), text("name", required=True), text("subPath")]
)
_CONTAINER: Final = (
    text("image", required=True),
    texts("args"),
    text("baseImageUri"),
    blocks("buildInfos", [text("functionTarget"), text("sourceLocation")], "buildInfo", output=True),
    texts("commands", "command"),
    texts("dependsOns", "dependsOn"),
    blocks(
        "envs",
        [text("name", required=True), text("value"), block("valueSource", [_SECRET_KEY_REF])],
        "env",
        ordered=False,
    ),
    block("livenessProbe", _LIVENESS),
    text("name"),
    block("ports", [integer("containerPort"), text("name", computed=True)], wire_list=True, computed=True),
    block("readinessProbe", _READINESS),
    block(
        "resources",
        # Removing a GPU from the limits is a change (TPG cloudRunV2ServiceResourceLimitsDiffSuppress).
        [
            boolean("cpuIdle"),
            mapping("limits", computed=True, preserved_keys=("cpu", "memory")),
            boolean("startupCpuBoost"),
        ],
        computed=True,
    ),
    boolean("sandboxLauncher"),
    block(
        "sourceCode",
        [
            block(
                "cloudStorageSource",
                [text("bucket", required=True), text("object", required=True), text("generation")],
            )
        ],
    ),
    block("startupProbe", _STARTUP, computed=True),
    _MOUNTS,
    text("workingDir"),
)
_SANDBOX: Final = (
    text("image", required=True),
    text("name", required=True),
    texts("args"),
    texts("commands", "command"),
    blocks("envs", [text("name", required=True), text("value")], "env", ordered=False),
    _MOUNTS,
    text("workingDir"),
)
_VOLUME: Final = (
    text("name", required=True),
    block("cloudSqlInstance", [texts("instances", ordered=False)]),
    block("emptyDir", [text("medium", default="MEMORY", choices=("MEMORY", "DISK")), text("sizeLimit")]),
    block("gcs", [text("bucket", required=True), texts("mountOptions"), boolean("readOnly")]),
    block("nfs", [text("path", required=True), text("server", required=True), boolean("readOnly")]),
    block(
        "secret",
        [
            text("secret", required=True),
            integer("defaultMode"),
            blocks("items", [text("path", required=True), integer("mode"), text("version")]),
        ],
    ),
)
_NETWORK: Final = (
    text("network", computed=True),
    text("subnetwork", computed=True),
    texts("tags"),
)
TEMPLATE: Final = (
    mapping("annotations"),
    blocks("containers", _CONTAINER),
    text("encryptionKey"),
    text("executionEnvironment", choices=("EXECUTION_ENVIRONMENT_GEN1", "EXECUTION_ENVIRONMENT_GEN2")),
    boolean("gpuZonalRedundancyDisabled"),
    boolean("healthCheckDisabled"),
    mapping("labels"),
    integer("maxInstanceRequestConcurrency", computed=True),
    block("nodeSelector", [text("accelerator", required=True)]),
    text("revision"),
    block("sandboxes", [blocks("templates", _SANDBOX)]),
    block(
        "scaling",
        [
            number("concurrencyUtilization"),
            number("cpuUtilization"),
            integer("maxInstanceCount", computed=True),
            integer("minInstanceCount"),
        ],
        computed=True,
    ),
    text("serviceAccount", computed=True),
    block("serviceMesh", [text("mesh")]),
    boolean("sessionAffinity"),
    text("timeout", computed=True),
    blocks("volumes", _VOLUME),
    block(
        "vpcAccess",
        [
            text("connector", conflicts=("networkInterfaces",)),
            text("egress", computed=True, choices=("ALL_TRAFFIC", "PRIVATE_RANGES_ONLY")),
            blocks("networkInterfaces", _NETWORK),
        ],
    ),
    block(
        "workloadIdentityConfig",
        [text("identity"), boolean("identityCertificateEnabled"), text("identityType")],
    ),
)
_CONDITION: Final = tuple(
    text(name)
    for name in (
        "executionReason",
        "lastTransitionTime",
        "message",
        "reason",
        "revisionReason",
        "severity",
        "state",
        "type",
    )
)
_BUILD: Final = (
    text("baseImage"),
    boolean("enableAutomaticUpdates"),
    mapping("environmentVariables"),
    text("functionTarget"),
    text("imageUri"),
    text("name", output=True),
    text("serviceAccount"),
    text("sourceLocation"),
    text("workerPool"),
)
_INGRESS: Final = (
    "INGRESS_TRAFFIC_ALL",
    "INGRESS_TRAFFIC_INTERNAL_ONLY",
    "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER",
)
_STAGES: Final = ("UNIMPLEMENTED", "PRELAUNCH", "EARLY_ACCESS", "ALPHA", "BETA", "GA", "DEPRECATED")
_TRAFFIC_TYPES: Final = ("TRAFFIC_TARGET_ALLOCATION_TYPE_LATEST", "TRAFFIC_TARGET_ALLOCATION_TYPE_REVISION")

SERVICE: Final = (
    text("location", "", required=True, force_new=True),
    text("name", "", force_new=True, autoname=63),
    PROJECT,
    block("template", TEMPLATE, required=True),
    # Labels and annotations are sent as effectiveLabels and effectiveAnnotations (run_service.py).
    mapping("annotations", ""),
    block(
        "binaryAuthorization",
        [text("breakglassJustification"), text("policy", conflicts=("useDefault",)), boolean("useDefault")],
    ),
    block("buildConfig", _BUILD),
    text("client"),
    text("clientVersion"),
    texts("customAudiences"),
    boolean("defaultUriDisabled"),
    DELETION_POLICY,
    boolean("deletionProtection", "", default=True),
    text("description"),
    text("functionalType", choices=("FUNCTIONAL_TYPE_AGENT", "FUNCTIONAL_TYPE_MCP_SERVER")),
    boolean("iapEnabled"),
    text("ingress", computed=True, choices=_INGRESS),
    boolean("invokerIamDisabled"),
    mapping("labels", ""),
    text("launchStage", computed=True, choices=_STAGES),
    block("multiRegionSettings", [text("multiRegionId", output=True), texts("regions")]),
    block(
        "scaling",
        [
            integer("manualInstanceCount", computed=True),
            integer("maxInstanceCount", computed=True),
            integer("minInstanceCount", computed=True),
            text("scalingMode", choices=("AUTOMATIC", "MANUAL")),
        ],
        computed=True,
    ),
    boolean("sshEnabled"),
    mapping("tags", force_new=True),
    blocks(
        "traffics",
        [integer("percent", computed=True), text("revision"), text("tag"), text("type", choices=_TRAFFIC_TYPES)],
        "traffic",
        computed=True,
    ),
    blocks("conditions", _CONDITION, output=True),
    text("createTime", output=True),
    text("creator", output=True),
    text("deleteTime", output=True),
    mapping("effectiveAnnotations", "", output=True),
    mapping("effectiveLabels", "", output=True),
    text("etag", output=True),
    text("expireTime", output=True),
    text("generation", output=True),
    text("lastModifier", output=True),
    text("latestCreatedRevision", output=True),
    text("latestReadyRevision", output=True),
    text("observedGeneration", output=True),
    mapping("pulumiLabels", "", output=True),
    boolean("reconciling", output=True),
    blocks("terminalConditions", _CONDITION, "terminalCondition", output=True),
    blocks(
        "trafficStatuses",
        [integer("percent"), text("revision"), text("tag"), text("type"), text("uri")],
        output=True,
    ),
    text("uid", output=True),
    text("updateTime", output=True),
    text("uri", output=True),
    texts("urls", output=True),
)
