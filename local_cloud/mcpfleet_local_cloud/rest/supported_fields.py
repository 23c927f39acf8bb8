"""The fields of Google's schemas that the local cloud supports. Any other field is refused by name if it is set (501).

A line of `FIELDS` lists the fields of a schema. A plain name is supported (a model may refuse some of its values).
`-name` is accepted and has no effect (the comment gives the reason). `~name` is output only, although the discovery
document does not mark it so; a value that a caller sends is dropped. A line of `QUERY` lists query parameters in the
same way, for the methods whose id has that prefix. Everything that no line names is refused, including what a newer
discovery document adds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

_POLICIES: Final = {
    "Policy": "bindings etag version",
    "Binding": "role members",
    "SetIamPolicyRequest": "policy updateMask",
    "GetIamPolicyRequest": "options",
    # A policy has no conditions here, so every version of it looks the same.
    "GetPolicyOptions": "-requestedPolicyVersion",
    "TestIamPermissionsRequest": "permissions",
}
FIELDS: Final[Mapping[str, Mapping[str, str]]] = {
    "agentregistry": {
        # A service is a record for others to read: the local cloud never interprets it.
        "Service": "~name displayName description interfaces mcpServerSpec agentSpec endpointSpec",
        "AgentSpec": "type content",
        "EndpointSpec": "type content",
        "McpServerSpec": "type content",
        "Interface": "url protocolBinding",
    },
    "artifactregistry": {
        **_POLICIES,
        "Repository": (
            "name format mode description labels cleanupPolicies cleanupPolicyDryRun dockerConfig "
            "remoteRepositoryConfig"
        ),
        "CleanupPolicy": "id action condition mostRecentVersions",
        "CleanupPolicyCondition": ("tagState tagPrefixes versionNamePrefixes packageNamePrefixes olderThan newerThan"),
        "CleanupPolicyMostRecentVersions": "packageNamePrefixes keepCount",
        # The upstream is never contacted before Docker pulls from it, whatever this is set to.
        "RemoteRepositoryConfig": "description dockerRepository -disableUpstreamValidation",
        "DockerRepository": "publicRepository customRepository",
        "GoogleDevtoolsArtifactregistryV1RemoteRepositoryConfigDockerRepositoryCustomRepository": "uri",
    },
    "certificatemanager": {
        # A certificate is served by every load balancer here.
        "Certificate": "~name description labels managed scope",
        "ManagedCertificate": "domains dnsAuthorizations",
        "CertificateMap": "~name description labels",
        "CertificateMapEntry": "~name description labels hostname matcher certificates",
        # No DNS record is ever checked, of either type.
        "DnsAuthorization": "~name description labels domain type",
    },
    "cloudbuild": {
        # A build begins at once, so it never waits in a queue.
        "Build": "source steps images serviceAccount timeout tags options -queueTtl ~status ~name ~id ~projectId",
        # Logs are always streamed, every machine type is this machine, and builds have no substitutions here.
        "BuildOptions": "logging machineType -logStreamingOption -substitutionOption",
        "BuildStep": "id name args env dir ~status",
        "Source": "storageSource",
        # There is only one way to fetch a source.
        "StorageSource": "bucket object generation sourceFetcher",
        # The path names the build.
        "CancelBuildRequest": "-name -projectId -id",
    },
    "cloudresourcemanager": _POLICIES,
    "compute": {
        "Address": "name description addressType ipVersion networkTier labels labelFingerprint",
        "GlobalSetLabelsRequest": "labels labelFingerprint",
        "SslCertificate": "name description type managed",
        "SslCertificateManagedSslCertificate": "domains",
        # A serverless backend has neither ports nor health checks nor connections to drain, and every balancing mode
        # sends all requests to its one group.
        "BackendService": (
            "name description fingerprint backends protocol loadBalancingScheme sessionAffinity timeoutSec iap "
            "logConfig -connectionDraining -portName -port"
        ),
        "Backend": "group -description -balancingMode -capacityScaler -maxUtilization",
        "BackendServiceIAP": "",
        "ConnectionDraining": "-drainingTimeoutSec",
        # No log is written, so there is nothing to leave out of it.
        "BackendServiceLogConfig": "-sampleRate -optionalMode -optionalFields",
        "UrlMap": "name description fingerprint defaultService defaultUrlRedirect hostRules pathMatchers",
        "UrlMapReference": "urlMap",
        "HostRule": "hosts pathMatcher description",
        "PathMatcher": "name description defaultService defaultUrlRedirect pathRules",
        "PathRule": "paths service",
        "HttpRedirectAction": (
            "hostRedirect httpsRedirect pathRedirect prefixRedirect redirectResponseCode stripQuery"
        ),
        "TargetHttpProxy": "name description fingerprint urlMap",
        "TargetHttpsProxy": (
            "name description fingerprint urlMap sslCertificates certificateMap quicOverride tlsEarlyData"
        ),
        "TargetHttpsProxiesSetSslCertificatesRequest": "sslCertificates",
        "TargetHttpsProxiesSetCertificateMapRequest": "certificateMap",
        "TargetReference": "target",
        "ForwardingRule": (
            "name description fingerprint IPAddress IPProtocol portRange target loadBalancingScheme networkTier "
            "ipVersion "
            "labels labelFingerprint"
        ),
        # Containers reach one another by name; no packet is routed, fragmented or logged.
        "Network": "name description autoCreateSubnetworks -routingConfig -mtu -networkFirewallPolicyEnforcementOrder",
        "NetworkRoutingConfig": "-routingMode -bgpBestPathSelectionMode",
        "Subnetwork": (
            "name description fingerprint region network ipCidrRange privateIpGoogleAccess purpose stackType "
            "-secondaryIpRanges"
        ),
        "SubnetworkSecondaryRange": "-rangeName -ipCidrRange",
        "NetworkEndpointGroup": "name description networkEndpointType cloudRun",
        "NetworkEndpointGroupCloudRun": "service",
    },
    "dns": {
        "ManagedZone": (
            "name dnsName description visibility privateVisibilityConfig labels ~id ~creationTime ~nameServers "
            "~nameServerSet"
        ),
        "ManagedZonePrivateVisibilityConfig": "networks",
        "ManagedZonePrivateVisibilityConfigNetwork": "networkUrl",
        "Change": "additions deletions ~id ~startTime ~status ~isServing",
        # Nothing is signed here, but a caller that deletes a record sends back all the fields that it read.
        "ResourceRecordSet": "name type ttl rrdatas -signatureRrdatas",
    },
    "iam": {
        **_POLICIES,
        "CreateServiceAccountRequest": "accountId serviceAccount",
        "PatchServiceAccountRequest": "serviceAccount updateMask",
        "ServiceAccount": "displayName description etag ~name",
        "CreateServiceAccountKeyRequest": "keyAlgorithm privateKeyType",
        "WorkloadIdentityPool": "displayName description disabled mode ~name",
        "WorkloadIdentityPoolProvider": (
            "displayName description disabled attributeMapping attributeCondition oidc ~name"
        ),
        "Oidc": "issuerUri allowedAudiences jwksJson",
    },
    "iamcredentials": {
        "GenerateAccessTokenRequest": "scope lifetime",
        "GenerateIdTokenRequest": "audience includeEmail",
    },
    "iap": {
        **_POLICIES,
        "IapSettings": "accessSettings ~name",
        "AccessSettings": "oauthSettings",
        # The local cloud's own login page has no use for a hint.
        "OAuthSettings": "clientId clientSecret programmaticClients -loginHint",
    },
    # Read as a form, too, by `services/sts.py`.
    "sts": {
        "GoogleIdentityStsV1ExchangeTokenRequest": (
            "audience grantType options requestedTokenType scope subjectToken subjectTokenType"
        )
    },
    "logging": {"ListLogEntriesRequest": "resourceNames filter orderBy pageSize pageToken"},
    "networkservices": {
        "Mesh": "description labels ~name",
        "HttpRoute": "description labels hostnames meshes rules ~name",
        "HttpRouteRouteRule": "action matches",
        "HttpRouteRouteMatch": "",
        "HttpRouteRouteAction": "destinations timeout",
        # A rule has one destination, which gets every request.
        "HttpRouteDestination": "serviceName -weight",
    },
    "run": {
        **_POLICIES,
        # `services/run/unsupported.py` refuses some of these fields, after Google's own checks.
        "Service": (
            "annotations binaryAuthorization buildConfig client clientVersion customAudiences defaultUriDisabled "
            "description etag functionalType iapEnabled ingress invokerIamDisabled labels launchStage "
            "multiRegionSettings "
            "name scaling sshEnabled template traffic"
        ),
        "BinaryAuthorization": "breakglassJustification policy useDefault",
        "BuildConfig": (
            "baseImage enableAutomaticUpdates environmentVariables functionTarget imageUri serviceAccount "
            "sourceLocation "
            "workerPool"
        ),
        "MultiRegionSettings": "multiRegionId regions",
        "ServiceScaling": "manualInstanceCount maxInstanceCount minInstanceCount scalingMode",
        "RevisionTemplate": (
            "annotations client clientVersion containers encryptionKey encryptionKeyRevocationAction "
            "encryptionKeyShutdownDuration executionEnvironment gpuZonalRedundancyDisabled healthCheckDisabled "
            "labels "
            "maxInstanceRequestConcurrency nodeSelector revision scaling serviceAccount serviceMesh sessionAffinity "
            "timeout volumes vpcAccess workloadIdentityConfig"
        ),
        "TrafficTarget": "percent revision tag type",
        "Container": (
            "args baseImageUri command dependsOn env image livenessProbe name ports readinessProbe resources "
            "sandboxLauncher sourceCode startupProbe volumeMounts workingDir"
        ),
        "NodeSelector": "accelerator",
        "RevisionScaling": "concurrencyUtilization cpuUtilization maxInstanceCount minInstanceCount",
        "ServiceMesh": "mesh",
        "Volume": "cloudSqlInstance emptyDir gcs name nfs secret",
        "VpcAccess": "connector egress networkInterfaces",
        "WorkloadIdentityConfig": "identity identityCertificateEnabled identityType",
        "EnvVar": "name value valueSource",
        "Probe": "failureThreshold grpc httpGet initialDelaySeconds periodSeconds tcpSocket timeoutSeconds",
        "ContainerPort": "containerPort name",
        "ResourceRequirements": "cpuIdle limits startupCpuBoost",
        "SourceCode": "cloudStorageSource inlinedSource",
        "VolumeMount": "mountPath name subPath",
        "CloudSqlInstance": "instances",
        "EmptyDirVolumeSource": "medium sizeLimit",
        "GCSVolumeSource": "bucket mountOptions readOnly",
        "NFSVolumeSource": "path readOnly server",
        "SecretVolumeSource": "defaultMode items secret",
        "NetworkInterface": "network subnetwork tags",
        "EnvVarSource": "secretKeyRef",
        "GRPCAction": "port service",
        "HTTPGetAction": "httpHeaders path port",
        "TCPSocketAction": "port",
        "CloudStorageSource": "bucket generation object",
        "InlinedSource": "sources",
        "VersionToPath": "mode path version",
        "SecretKeySelector": "secret version",
        "HTTPHeader": "name value",
        "SourceFile": "content filename",
        "WaitOperationRequest": "timeout",
    },
    "secretmanager": {
        **_POLICIES,
        "Secret": "replication labels annotations versionAliases etag",
        "Replication": "automatic userManaged",
        "UserManaged": "replicas",
        "Replica": "location",
        "AddSecretVersionRequest": "payload",
        "SecretPayload": "data dataCrc32c",
        "EnableSecretVersionRequest": "etag",
        "DisableSecretVersionRequest": "etag",
        "DestroySecretVersionRequest": "etag",
    },
    "serviceusage": {
        "BatchEnableServicesRequest": "serviceIds",
        # No API here depends on another.
        "DisableServiceRequest": "checkIfServiceHasUsage -disableDependentServices",
    },
    "storage": {
        # A bucket is a folder on this machine, whatever its storage class and its replication.
        "Bucket": (
            "name location labels iamConfiguration lifecycle softDeletePolicy -storageClass -rpo ~kind ~id "
            "~selfLink ~etag "
            "~generation ~metageneration ~timeCreated ~updated ~projectNumber ~locationType ~owner ~satisfiesPZI "
            "~satisfiesPZS ~hardDeleteTime ~softDeleteTime"
        ),
        # The older name of the uniform access, which clients send with it.
        "Bucket.iamConfiguration": "publicAccessPrevention uniformBucketLevelAccess -bucketPolicyOnly",
        "Bucket.iamConfiguration.uniformBucketLevelAccess": "enabled ~lockedTime",
        "Bucket.iamConfiguration.bucketPolicyOnly": "-enabled ~lockedTime",
        "Bucket.lifecycle": "rule",
        "Bucket.lifecycle.rule": "action condition",
        "Bucket.lifecycle.rule.action": "type",
        "Bucket.lifecycle.rule.condition": "age",
        # Deleted objects cannot be restored (`docs/local-cloud.md`).
        "Bucket.softDeletePolicy": "-retentionDurationSeconds ~effectiveTime",
        "Policy": "bindings etag version ~kind ~resourceId",
        "Policy.bindings": "role members",
        "Object": (
            "name contentType metadata md5Hash crc32c cacheControl contentEncoding contentDisposition "
            "contentLanguage ~kind ~id ~selfLink "
            "~bucket ~generation ~metageneration ~etag ~size ~timeCreated ~updated ~timeDeleted ~timeFinalized "
            "~timeStorageClassUpdated ~mediaLink ~owner ~componentCount ~softDeleteTime ~hardDeleteTime "
            "~retentionExpirationTime -storageClass"
        ),
    },
}
_KMS: Final = "there is no Cloud KMS here."
_HOLDS: Final = "objects cannot be protected from deletion here."
_ACL: Final = "use IAM: uniform bucket-level access."
_SECRETS: Final = "steps get no secrets here."
_SUBSTITUTIONS: Final = "there are no substitutions here."
_POOLS: Final = "there are no worker pools here."
_SOURCE: Final = "only sources in Cloud Storage are supported here."
_MANAGED: Final = "only managed certificates are supported here."
_ROUTES: Final = "requests are routed only by host and path here."
REASONS: Final[Mapping[str, str]] = {
    "Binding.condition": "grant the role without a condition.",
    "Policy.bindings.condition": "grant the role without a condition.",
    "Policy.auditConfigs": "there are no audit logs here.",
    "artifactregistry.Repository": "only standard and remote Docker repositories are served here.",
    "artifactregistry.DockerRepositoryConfig.immutableTags": "tags can always be moved here.",
    "artifactregistry.RemoteRepositoryConfig": (
        "Docker on this machine pulls from the upstream: run `docker login` once if it needs credentials"
    ),
    "certificatemanager.Certificate": _MANAGED,
    "certificatemanager.ManagedCertificate": "the cloud's own authority issues certificates here.",
    "cloudbuild.Build.artifacts": "only images are supported here.",
    "cloudbuild.Build.availableSecrets": _SECRETS,
    "cloudbuild.Build.dependencies": _SOURCE,
    "cloudbuild.Build.gitConfig": _SOURCE,
    "cloudbuild.Build.logsBucket": "set options.logging: CLOUD_LOGGING_ONLY.",
    "cloudbuild.Build.secrets": _KMS,
    "cloudbuild.Build.substitutions": "write the values instead.",
    "cloudbuild.BuildOptions.automapSubstitutions": _SUBSTITUTIONS,
    "cloudbuild.BuildOptions.defaultLogsBucketBehavior": "set options.logging: CLOUD_LOGGING_ONLY.",
    "cloudbuild.BuildOptions.diskSizeGb": "builds use this machine's disk.",
    "cloudbuild.BuildOptions.dynamicSubstitutions": _SUBSTITUTIONS,
    "cloudbuild.BuildOptions.enableStructuredLogging": "log lines are plain text here.",
    "cloudbuild.BuildOptions.env": "set it in the step.",
    "cloudbuild.BuildOptions.pool": _POOLS,
    "cloudbuild.BuildOptions.pubsubTopic": "there is no Pub/Sub here.",
    "cloudbuild.BuildOptions.requestedVerifyOption": "builds are not signed here.",
    "cloudbuild.BuildOptions.secretEnv": _SECRETS,
    "cloudbuild.BuildOptions.sourceProvenanceHash": "hashes of sources are not computed here.",
    "cloudbuild.BuildOptions.volumes": "steps share only /workspace here.",
    "cloudbuild.BuildOptions.workerPool": _POOLS,
    "cloudbuild.BuildStep": "a step can only be a docker command here.",
    "cloudbuild.BuildStep.waitFor": "steps run one after another here.",
    "cloudbuild.Source": _SOURCE,
    "compute.BackendServiceIAP": "set iapEnabled on the Cloud Run service instead.",
    "compute.NetworkEndpointGroup.cloudFunction": "a group has one Cloud Run service here.",
    "compute.NetworkEndpointGroup.appEngine": "a group has one Cloud Run service here.",
    "compute.NetworkEndpointGroupCloudRun": "a group has one service here.",
    "compute.PathMatcher": _ROUTES,
    "compute.PathRule": _ROUTES,
    "compute.SslCertificate": _MANAGED,
    "compute.UrlMap": _ROUTES,
    "compute.UrlMap.tests": "tests of URL maps are not run here.",
    "dns.ManagedZone.cloudLoggingConfig": "queries are not logged here.",
    "dns.ManagedZone.dnssecConfig": "private zones are not signed.",
    "dns.ManagedZone.forwardingConfig": "no zone is forwarded here.",
    "dns.ManagedZone.peeringConfig": "no zone is peered here.",
    "dns.ManagedZone.reverseLookupConfig": "reverse lookup is not supported here.",
    "dns.ManagedZone.serviceDirectoryConfig": "there is no Service Directory here.",
    "dns.ManagedZonePrivateVisibilityConfig.gkeClusters": "there are no clusters here.",
    "dns.ResourceRecordSet.routingPolicy": "routing policies are not supported here.",
    "iam.Oidc.discoveryUri": "the issuer's /.well-known/openid-configuration is always used here.",
    "iam.WorkloadIdentityPool": "there are no workload certificates here.",
    "iam.WorkloadIdentityPoolProvider": "only OIDC providers are supported here; use oidc.",
    "iam.WorkloadIdentityPoolProvider.actorProviders": "there are no actor tokens here.",
    "iamcredentials.GenerateAccessTokenRequest.delegates": "delegation is not supported here; use the account itself.",
    "iamcredentials.GenerateIdTokenRequest.delegates": "delegation is not supported here; use the account itself.",
    "iap.AccessSettings": "only OAuth clients are supported here.",
    "iap.IapSettings.applicationSettings": "the pages of Identity-Aware Proxy cannot be changed here.",
    "logging.ListLogEntriesRequest.projectIds": "name one project in resourceNames: [projects/PROJECT].",
    "networkservices.HttpRoute.gateways": "meshes have no gateways here.",
    "networkservices.HttpRouteRouteAction": "a route only forwards requests here.",
    "networkservices.HttpRouteRouteMatch": "a route matches every request for its host names here.",
    "networkservices.HttpRouteDestination": "a route only forwards requests here.",
    "networkservices.Mesh": "requests are intercepted by their host name here; leave it out.",
    "run.Container.buildConfig": "nothing is built from source here; build an image and name it.",
    "run.Volume.filestore": "there is no Filestore here.",
    "run.RevisionTemplate.ambientNetworking": "there is no ambient mesh here.",
    "run.RevisionTemplate.sandboxes": "there are no sandboxes here.",
    "secretmanager.Automatic.customerManagedEncryption": _KMS,
    "secretmanager.Replica.customerManagedEncryption": _KMS,
    "secretmanager.Secret.customerManagedEncryption": _KMS,
    "secretmanager.Secret.expireTime": "secrets do not expire here; delete it.",
    "secretmanager.Secret.rotation": "rotations are not announced here; add a version.",
    "secretmanager.Secret.secretType": "secrets are not generated here.",
    "secretmanager.Secret.tags": "there are no resource tags here.",
    "secretmanager.Secret.topics": "there is no Pub/Sub here.",
    "secretmanager.Secret.ttl": "secrets do not expire here; delete it.",
    "secretmanager.Secret.versionDestroyTtl": "a version is destroyed at once here.",
    "storage.Bucket.acl": _ACL,
    "storage.Bucket.autoclass": "objects have one storage class here.",
    "storage.Bucket.billing": "there is no billing here.",
    "storage.Bucket.cors": "browsers cannot reach buckets here.",
    "storage.Bucket.customPlacementConfig": "a bucket is in one place here.",
    "storage.Bucket.defaultEventBasedHold": _HOLDS,
    "storage.Bucket.defaultObjectAcl": _ACL,
    "storage.Bucket.encryption": _KMS,
    "storage.Bucket.hierarchicalNamespace": "a bucket is always a folder here.",
    "storage.Bucket.ipFilter": "only this machine can reach a bucket here.",
    "storage.Bucket.lifecycle.rule.action": "only deletion by age is supported here.",
    "storage.Bucket.lifecycle.rule.condition": "only deletion by age is supported here.",
    "storage.Bucket.logging": "there are no access logs of buckets here.",
    "storage.Bucket.objectRetention": _HOLDS,
    "storage.Bucket.retentionPolicy": _HOLDS,
    "storage.Bucket.versioning": "objects have one version here.",
    "storage.Bucket.website": "buckets are not served as websites here.",
    "storage.Object.acl": _ACL,
    "storage.Object.eventBasedHold": _HOLDS,
    "storage.Object.retention": _HOLDS,
    "storage.Object.temporaryHold": _HOLDS,
}
"""The reason why a field is refused, by API, schema and field; a key without a field applies to the whole schema."""
_DEFAULT_REASON: Final = "it has no effect here; leave it out."

QUERY: Final[Mapping[str, str]] = {
    # Every change is made at once, there are no access control lists to leave out, and there is no billing.
    "": (
        "alt $alt fields uploadType -$.xgafv -key -prettyPrint -$prettyPrint -quotaUser -$userProject "
        "-upload_protocol "
        "-userIp -options.requestedPolicyVersion -optionsRequestedPolicyVersion -requestId -clientOperationId "
        "-projection -userProject -returnPartialSuccess -showDeleted"
    ),
    "agentregistry.": "serviceId updateMask pageSize pageToken",
    "artifactregistry.": "repositoryId updateMask pageSize pageToken",
    "certificatemanager.": (
        "certificateId certificateMapId certificateMapEntryId dnsAuthorizationId updateMask pageSize pageToken"
    ),
    "cloudbuild.projects.": "pageSize pageToken -projectId -id -name",
    "cloudresourcemanager.projects.list": "pageSize pageToken",
    "compute.": "maxResults pageToken",
    "dns.": "maxResults pageToken",
    "dns.resourceRecordSets.list": "name type maxResults pageToken",
    "iam.": (
        "pageSize pageToken keyTypes publicKeyType showDeleted updateMask workloadIdentityPoolId "
        "workloadIdentityPoolProviderId"
    ),
    "iap.": "updateMask",
    "networkservices.": "meshId httpRouteId updateMask pageSize pageToken",
    "run.": ("serviceId validateOnly allowMissing forceNewRevision updateMask etag pageSize pageToken "),
    "secretmanager.": "secretId updateMask etag pageSize pageToken",
    "serviceusage.": "filter pageSize pageToken",
    "storage.": "ifGenerationMatch ifGenerationNotMatch ifMetagenerationMatch ifMetagenerationNotMatch",
    "storage.buckets.": "project prefix permissions maxResults pageToken",
    # There are no versions of objects, no folders and no locks that they could mean.
    "storage.objects.": (
        "generation name prefix delimiter maxResults pageToken upload_id -versions -includeFoldersAsPrefixes "
        "-overrideUnlockedRetention"
    ),
}

PACKAGES: Final[Mapping[str, str]] = {
    "agentregistry": "google.cloud.agentregistry.v1",
    "artifactregistry": "google.devtools.artifactregistry.v1",
    "certificatemanager": "google.cloud.certificatemanager.v1",
    "cloudbuild": "google.devtools.cloudbuild.v1",
    "cloudresourcemanager": "google.cloud.resourcemanager.v1",
    "iam": "google.iam.admin.v1",
    "iap": "google.cloud.iap.v1",
    "logging": "google.logging.v2",
    "networkservices": "google.cloud.networkservices.v1",
    "run": "google.cloud.run.v2",
    "secretmanager": "google.cloud.secretmanager.v1",
    "serviceusage": "google.api.serviceusage.v1",
}
"""The protobuf package of each API's messages, which the discovery documents leave out."""

ONEOFS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "cloudbuild.Source": {
        "source": (
            *("storageSource", "repoSource", "gitSource", "storageSourceManifest", "connectedRepository"),
            "developerConnectConfig",
        )
    },
    "run.Probe": {"probe_type": ("httpGet", "tcpSocket", "grpc")},
    "run.EnvVar": {"values": ("value", "valueSource")},
    "run.Volume": {"volume_type": ("secret", "cloudSqlInstance", "emptyDir", "nfs", "gcs")},
    "run.BinaryAuthorization": {"binauthz_method": ("useDefault", "policy")},
    "run.SourceCode": {"source_type": ("cloudStorageSource", "inlinedSource")},
    "secretmanager.Replication": {"replication": ("automatic", "userManaged")},
    "agentregistry.Service": {"spec": ("mcpServerSpec", "agentSpec", "endpointSpec")},
}
"""Groups of fields of which a message sets at most one (from protobuf; the discovery documents leave them out)."""

ENUM_NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "FORMAT_UNSPECIFIED": (
        *("FORMAT_UNSPECIFIED", "DOCKER", "MAVEN", "NPM", "", "APT", "YUM", "", "PYTHON", "KFP", "GO", "GENERIC"),
        "RUBY",
    ),
    "LAUNCH_STAGE_UNSPECIFIED": (
        *("LAUNCH_STAGE_UNSPECIFIED", "EARLY_ACCESS", "ALPHA", "BETA", "GA", "DEPRECATED", "UNIMPLEMENTED"),
        "PRELAUNCH",
    ),
    "LOGGING_UNSPECIFIED": (
        *("LOGGING_UNSPECIFIED", "LEGACY", "GCS_ONLY", "STACKDRIVER_ONLY", "NONE"),
        "CLOUD_LOGGING_ONLY",
    ),
    "NOT_VERIFIED": ("NOT_VERIFIED", "VERIFIED", "", "BEST_EFFORT"),
    "SECRET_TYPE_UNSPECIFIED": (
        *("SECRET_TYPE_UNSPECIFIED", "CLOUD_SQL_DB_CREDENTIALS", "ACCESS_KEY", "CERTIFICATE"),
        "OTHER_DB_CREDENTIALS",
    ),
    "UNSPECIFIED": (
        *("UNSPECIFIED", "N1_HIGHCPU_8", "N1_HIGHCPU_32", "", "", "E2_HIGHCPU_8", "E2_HIGHCPU_32", "E2_MEDIUM"),
        *("", "", "", "E2_STANDARD_2"),
    ),
}
"""Enums whose numbers do not follow the order of their values in the discovery documents, by the first value.

The values are in the order of their numbers; a number without a value has an empty text.
tests/integration/test_google_clients.py compares them with Google's Python packages.
"""


@dataclass(frozen=True)
class Support:
    """How far the local cloud supports a field or a query parameter, and the reason if it refuses it."""

    level: Literal["supported", "ignored", "output_only", "refused"]
    reason: str = ""


_PREFIXES: Final[Mapping[str, Support]] = {"-": Support("ignored"), "~": Support("output_only")}
_SUPPORTED: Final = Support("supported")


def support_of(api: str, schema: str, field: str) -> Support:
    """The support for the *field* of a *schema* of *api* (`run.v2`)."""
    api_name = api.partition(".")[0]
    support = _parse_line(FIELDS.get(api_name, {}).get(schema, "")).get(field)
    if support is not None:
        return support
    reasons = (f"{api_name}.{schema}.{field}", f"{schema}.{field}", f"{api_name}.{schema}")
    return Support("refused", next((REASONS[key] for key in reasons if key in REASONS), _DEFAULT_REASON))


def support_of_parameter(method: str, name: str) -> Support:
    """The support for the query parameter *name* of the method with the id *method*."""
    for prefix, line in reversed(QUERY.items()):
        if method.startswith(prefix) and (support := _parse_line(line).get(name)) is not None:
            return support
    return Support("refused", "leave this query parameter out.")


@cache
def _parse_line(line: str) -> Mapping[str, Support]:
    return {name.lstrip("-~"): _PREFIXES.get(name[0], _SUPPORTED) for name in line.split()}
