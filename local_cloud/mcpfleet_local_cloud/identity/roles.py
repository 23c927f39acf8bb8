"""The permissions of predefined roles.

These are the roles that fleets, the documentation and users need, with the permissions that the local cloud checks
(cloud.google.com/iam/docs/roles-permissions). Granting a role that is missing here is an error, so that no grant is
without effect. Permissions are compared without case: Cloud Run writes `iam.serviceaccounts.actAs`, IAM
`iam.serviceAccounts.actAs`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final


def _permissions(resource: str, verbs: str) -> frozenset[str]:
    return frozenset(f"{resource}.{verb}" for verb in verbs.split())


_PROJECT: Final = _permissions("resourcemanager.projects", "get list")
_PROJECT_IAM: Final = _permissions("resourcemanager.projects", "get getIamPolicy setIamPolicy")

_RUN_READ: Final = (
    _permissions("run.services", "get list getIamPolicy")
    | _permissions("run.revisions", "get list")
    | _permissions("run.operations", "get list")
    | _permissions("run.locations", "list")
    | _permissions("run.routes", "get list")
    | _permissions("run.configurations", "get list")
)
_RUN_WRITE: Final = (
    _permissions("run.services", "create update delete")
    | _permissions("run.revisions", "delete")
    | _permissions("run.operations", "delete")
)
_RUN_INVOKE: Final = _permissions("run.routes", "invoke")
_RUN_ADMIN: Final = _RUN_READ | _RUN_WRITE | _RUN_INVOKE | _permissions("run.services", "setIamPolicy")

_ACCOUNT_READ: Final = _permissions("iam.serviceAccounts", "get list")
_ACCOUNT_WRITE: Final = _permissions("iam.serviceAccounts", "create delete disable enable undelete update")
_ACCOUNT_IAM: Final = _permissions("iam.serviceAccounts", "getIamPolicy setIamPolicy")
_ACCOUNT_KEYS: Final = _permissions("iam.serviceAccountKeys", "create delete get list")
_ACT_AS: Final = _permissions("iam.serviceAccounts", "actAs")
_POOLS_READ: Final = _permissions("iam.workloadIdentityPools", "get list") | _permissions(
    "iam.workloadIdentityPoolProviders", "get list"
)
_POOLS: Final = (
    _POOLS_READ
    | _permissions("iam.workloadIdentityPools", "create delete undelete update")
    | _permissions("iam.workloadIdentityPoolProviders", "create delete undelete update")
)
_TOKENS: Final = _permissions(
    "iam.serviceAccounts", "getAccessToken getOpenIdToken implicitDelegation signBlob signJwt"
)

_IMAGES_READ: Final = (
    _permissions("artifactregistry.repositories", "get list downloadArtifacts readViaVirtualRepository")
    | _permissions("artifactregistry.dockerimages", "get list")
    | _permissions("artifactregistry.packages", "get list")
    | _permissions("artifactregistry.versions", "get list")
    | _permissions("artifactregistry.tags", "get list")
    | _permissions("artifactregistry.files", "get list download")
    | _permissions("artifactregistry.locations", "get list")
)
_IMAGES_WRITE: Final = _permissions("artifactregistry.repositories", "uploadArtifacts") | _permissions(
    "artifactregistry.tags", "create update"
)
_IMAGES_DELETE: Final = (
    _permissions("artifactregistry.repositories", "deleteArtifacts")
    | _permissions("artifactregistry.packages", "delete")
    | _permissions("artifactregistry.versions", "delete")
    | _permissions("artifactregistry.tags", "delete")
)
_REPOSITORIES: Final = _permissions("artifactregistry.repositories", "create update delete getIamPolicy setIamPolicy")
_REPO_ADMIN: Final = _IMAGES_READ | _IMAGES_WRITE | _IMAGES_DELETE

_USAGE_READ: Final = _permissions("serviceusage.services", "get list") | _permissions(
    "serviceusage.operations", "get list"
)
_USAGE_USE: Final = _permissions("serviceusage.services", "use")
_USAGE_WRITE: Final = _permissions("serviceusage.services", "enable disable")

_SECRETS_READ: Final = (
    _permissions("secretmanager.secrets", "get list getIamPolicy")
    | _permissions("secretmanager.versions", "get list")
    | _permissions("secretmanager.locations", "get list")
)
_SECRETS_ACCESS: Final = _permissions("secretmanager.versions", "access")
_SECRETS_ADD: Final = _permissions("secretmanager.versions", "add")
_SECRETS_WRITE: Final = (
    _permissions("secretmanager.secrets", "create update delete setIamPolicy")
    | _permissions("secretmanager.versions", "enable disable destroy")
    | _SECRETS_ADD
)

_OBJECTS_READ: Final = _permissions("storage.objects", "get list")
_OBJECTS_WRITE: Final = _permissions("storage.objects", "create delete update")
_BUCKETS_READ: Final = _permissions("storage.buckets", "get list getIamPolicy")
_BUCKETS_WRITE: Final = _permissions("storage.buckets", "create delete update setIamPolicy")

_NETWORK_READ: Final = _permissions("compute.networks", "get list") | _permissions("compute.subnetworks", "get list")
_NETWORK_WRITE: Final = _permissions("compute.networks", "create delete update use") | _permissions(
    "compute.subnetworks", "create delete update use"
)
_BALANCER: Final = (
    frozenset(
        f"compute.{resource}.{verb}"
        for resource in (
            "globalAddresses",
            "sslCertificates",
            "regionNetworkEndpointGroups",
            "backendServices",
            "urlMaps",
            "targetHttpProxies",
            "targetHttpsProxies",
            "globalForwardingRules",
        )
        for verb in ("create", "delete", "get", "list", "update", "use")
    )
    | _permissions("compute.globalOperations", "get")
    | _permissions("compute.regionOperations", "get")
)

_CERTIFICATES_READ: Final = (
    _permissions("certificatemanager.certs", "get list")
    | _permissions("certificatemanager.certmaps", "get list")
    | _permissions("certificatemanager.certmapentries", "get list")
    | _permissions("certificatemanager.dnsauthorizations", "get list")
    | _permissions("certificatemanager.operations", "get list")
)
_CERTIFICATES_EDIT: Final = _CERTIFICATES_READ | frozenset(
    f"certificatemanager.{resource}.{verb}"
    for resource in ("certs", "certmaps", "certmapentries", "dnsauthorizations")
    for verb in ("create", "update", "use")
)
_CERTIFICATES: Final = _CERTIFICATES_EDIT | frozenset(
    f"certificatemanager.{resource}.delete" for resource in ("certs", "certmaps", "certmapentries", "dnsauthorizations")
)

_MESHES: Final = (
    _permissions("networkservices.meshes", "create delete get list update use")
    | _permissions("networkservices.httpRoutes", "create delete get list update")
    | _permissions("networkservices.operations", "get list")
)
_MESH_CLIENT: Final = _permissions("trafficdirector.networks", "getConfigs reportMetrics")
_NAMES_READ: Final = (
    _permissions("dns.managedZones", "get list")
    | _permissions("dns.resourceRecordSets", "get list")
    | _permissions("dns.changes", "get list")
)
_NAMES_WRITE: Final = (
    _permissions("dns.managedZones", "create delete update")
    | _permissions("dns.resourceRecordSets", "create delete update")
    | _permissions("dns.changes", "create")
)

_IAP_POLICY: Final = _permissions("iap.webServices", "getIamPolicy setIamPolicy")
_IAP_SETTINGS: Final = _permissions("iap.webServices", "getSettings updateSettings") | _permissions(
    "iap.projects", "getSettings updateSettings"
)
_IAP_ACCESS: Final = _permissions("iap.webServiceVersions", "accessViaIAP")

_AGENTS_READ: Final = _permissions("agentregistry.services", "get list") | _permissions(
    "agentregistry.mcpServers", "get list"
)
_AGENTS_WRITE: Final = _permissions("agentregistry.services", "create update delete")
_LOGS_WRITE: Final = _permissions("logging.logEntries", "create route")
_LOGS_READ: Final = _permissions("logging.logEntries", "list") | _permissions("logging.logs", "list")
_BUILDS_READ: Final = _permissions("cloudbuild.builds", "get list") | _permissions("cloudbuild.operations", "get list")
_BUILDS_WRITE: Final = _permissions("cloudbuild.builds", "create update")
_METRICS_WRITE: Final = _permissions("monitoring.timeSeries", "create") | _permissions(
    "monitoring.metricDescriptors", "create"
)
_TRACES_WRITE: Final = _permissions("cloudtrace.traces", "patch")

_VIEWER: Final = (
    _PROJECT
    | _permissions("resourcemanager.projects", "getIamPolicy")
    | _RUN_READ
    | _ACCOUNT_READ
    | _permissions("iam.serviceAccounts", "getIamPolicy")
    | _permissions("iam.serviceAccountKeys", "get list")
    | _POOLS_READ
    | _IMAGES_READ
    | _permissions("artifactregistry.repositories", "getIamPolicy")
    | _USAGE_READ
    | _SECRETS_READ
    | _BUCKETS_READ
    | _NETWORK_READ
    | _AGENTS_READ
    | _LOGS_READ
    | _NAMES_READ
    | _CERTIFICATES_READ
    | _BUILDS_READ
)
# Editors change resources, but not IAM policies, and they get no tokens of service accounts.
_EDITOR: Final = (
    _VIEWER
    | _RUN_WRITE
    | _RUN_INVOKE
    | _ACCOUNT_WRITE
    | _ACCOUNT_KEYS
    | _ACT_AS
    | _REPO_ADMIN
    | _permissions("artifactregistry.repositories", "create update delete")
    | _USAGE_USE
    | _USAGE_WRITE
    | (_SECRETS_WRITE - _permissions("secretmanager.secrets", "setIamPolicy"))
    | (_BUCKETS_WRITE - _permissions("storage.buckets", "setIamPolicy"))
    | _NETWORK_WRITE
    | _BALANCER
    | _MESHES
    | _CERTIFICATES
    | _NAMES_WRITE
    | _AGENTS_WRITE
    | _LOGS_WRITE
    | _BUILDS_WRITE
    | _METRICS_WRITE
    | _TRACES_WRITE
)
_OWNER: Final = (
    _EDITOR
    | _PROJECT_IAM
    | _RUN_ADMIN
    | _ACCOUNT_IAM
    | _POOLS
    | _REPOSITORIES
    | _SECRETS_WRITE
    | _SECRETS_ACCESS
    | _BUCKETS_WRITE
    | _OBJECTS_READ
    | _OBJECTS_WRITE
    | _IAP_POLICY
    | _IAP_SETTINGS
)

ROLES: Final[Mapping[str, frozenset[str]]] = {
    "roles/owner": _OWNER,
    "roles/editor": _EDITOR,
    "roles/viewer": _VIEWER,
    "roles/browser": _PROJECT | _permissions("resourcemanager.projects", "getIamPolicy"),
    "roles/resourcemanager.projectIamAdmin": _PROJECT_IAM,
    "roles/run.admin": _RUN_ADMIN | _PROJECT,
    "roles/run.developer": _RUN_READ | _RUN_WRITE | _PROJECT,
    "roles/run.viewer": _RUN_READ | _PROJECT,
    "roles/run.invoker": _RUN_INVOKE,
    "roles/run.servicesInvoker": _RUN_INVOKE,
    # For Cloud Run itself, which pulls images and gets tokens for the services' accounts.
    "roles/run.serviceAgent": _IMAGES_READ
    | _permissions("iam.serviceAccounts", "getAccessToken getOpenIdToken signBlob"),
    "roles/iam.serviceAccountAdmin": _ACCOUNT_READ | _ACCOUNT_WRITE | _ACCOUNT_IAM | _PROJECT,
    "roles/iam.serviceAccountCreator": _ACCOUNT_READ | _permissions("iam.serviceAccounts", "create") | _PROJECT,
    "roles/iam.serviceAccountDeleter": _ACCOUNT_READ | _permissions("iam.serviceAccounts", "delete") | _PROJECT,
    "roles/iam.serviceAccountKeyAdmin": _ACCOUNT_READ | _ACCOUNT_KEYS | _PROJECT,
    "roles/iam.serviceAccountUser": _ACCOUNT_READ | _ACT_AS | _PROJECT,
    "roles/iam.serviceAccountTokenCreator": _ACCOUNT_READ | _TOKENS | _PROJECT,
    "roles/iam.serviceAccountOpenIdTokenCreator": _permissions("iam.serviceAccounts", "getOpenIdToken"),
    "roles/iam.workloadIdentityPoolAdmin": _POOLS | _PROJECT,
    "roles/iam.workloadIdentityPoolViewer": _POOLS_READ | _PROJECT,
    "roles/iam.workloadIdentityUser": _ACCOUNT_READ
    | _permissions("iam.serviceAccounts", "getAccessToken getOpenIdToken"),
    "roles/artifactregistry.admin": _REPO_ADMIN | _REPOSITORIES,
    "roles/artifactregistry.repoAdmin": _REPO_ADMIN,
    "roles/artifactregistry.writer": _IMAGES_READ | _IMAGES_WRITE,
    "roles/artifactregistry.reader": _IMAGES_READ,
    "roles/serviceusage.serviceUsageAdmin": _USAGE_READ | _USAGE_USE | _USAGE_WRITE | _PROJECT,
    "roles/serviceusage.serviceUsageConsumer": _USAGE_READ | _USAGE_USE | _PROJECT,
    "roles/serviceusage.serviceUsageViewer": _USAGE_READ | _PROJECT,
    "roles/secretmanager.admin": _SECRETS_READ | _SECRETS_ACCESS | _SECRETS_WRITE | _PROJECT,
    "roles/secretmanager.secretAccessor": _SECRETS_ACCESS | _PROJECT,
    "roles/secretmanager.secretVersionAdder": _SECRETS_ADD | _PROJECT,
    "roles/secretmanager.secretVersionManager": _permissions(
        "secretmanager.versions", "add destroy disable enable get list"
    )
    | _PROJECT,
    "roles/secretmanager.viewer": _SECRETS_READ | _PROJECT,
    "roles/storage.admin": _BUCKETS_READ | _BUCKETS_WRITE | _OBJECTS_READ | _OBJECTS_WRITE | _PROJECT,
    "roles/storage.objectAdmin": _OBJECTS_READ | _OBJECTS_WRITE | _PROJECT,
    "roles/storage.objectUser": _OBJECTS_READ | _OBJECTS_WRITE | _PROJECT,
    "roles/storage.objectCreator": _permissions("storage.objects", "create") | _PROJECT,
    "roles/storage.objectViewer": _OBJECTS_READ | _PROJECT,
    "roles/storage.bucketViewer": _permissions("storage.buckets", "get list"),
    "roles/vpcaccess.user": _permissions("vpcaccess.connectors", "get list use") | _PROJECT,
    "roles/compute.networkAdmin": _NETWORK_READ | _NETWORK_WRITE | _BALANCER | _MESHES | _PROJECT,
    "roles/compute.networkUser": _NETWORK_READ
    | _permissions("compute.networks", "use")
    | _permissions("compute.subnetworks", "use"),
    "roles/compute.networkViewer": _NETWORK_READ | _PROJECT,
    "roles/compute.loadBalancerAdmin": _BALANCER
    | _NETWORK_READ
    | _permissions("certificatemanager.certmaps", "get list use")
    | _PROJECT,
    "roles/compute.securityAdmin": _permissions("compute.sslCertificates", "create delete get list") | _PROJECT,
    "roles/trafficdirector.client": _MESH_CLIENT,
    "roles/certificatemanager.owner": _CERTIFICATES | _PROJECT,
    # Editors can't delete.
    "roles/certificatemanager.editor": _CERTIFICATES_EDIT | _PROJECT,
    "roles/certificatemanager.viewer": _CERTIFICATES_READ | _PROJECT,
    "roles/dns.admin": _NAMES_READ | _NAMES_WRITE | _PROJECT,
    "roles/dns.reader": _NAMES_READ | _PROJECT,
    "roles/iap.admin": _IAP_POLICY,
    "roles/iap.settingsAdmin": _IAP_SETTINGS,
    "roles/iap.httpsResourceAccessor": _IAP_ACCESS,
    "roles/agentregistry.admin": _AGENTS_READ | _AGENTS_WRITE,
    "roles/agentregistry.editor": _AGENTS_READ | _AGENTS_WRITE,
    "roles/agentregistry.viewer": _AGENTS_READ,
    "roles/aiplatform.user": _permissions("aiplatform.endpoints", "predict"),
    "roles/cloudbuild.builds.editor": _BUILDS_READ | _BUILDS_WRITE | _PROJECT,
    "roles/cloudbuild.builds.viewer": _BUILDS_READ | _PROJECT,
    "roles/logging.logWriter": _LOGS_WRITE,
    "roles/logging.viewer": _LOGS_READ | _PROJECT,
    "roles/monitoring.metricWriter": _METRICS_WRITE,
    "roles/cloudtrace.agent": _TRACES_WRITE,
}

_PERMISSION: Final = re.compile(r"[A-Za-z0-9]+(?:\.[A-Za-z0-9]+){2,}")
_ORGANIZATION_PERMISSIONS: Final = (
    "resourcemanager.projects.create",
    "resourcemanager.projects.list",
    "resourcemanager.organizations.",
    "resourcemanager.folders.",
)

_CASEFOLDED_ROLES: Final = {
    role: frozenset(permission.casefold() for permission in permissions) for role, permissions in ROLES.items()
}

# The prefixes of permissions that apply to a resource, by the collection at the end of its name.
_APPLICABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "services": ("run.services.", "run.routes.", "run.revisions."),
    "serviceAccounts": ("iam.serviceAccounts.", "iam.serviceAccountKeys."),
    "repositories": ("artifactregistry.",),
    "secrets": ("secretmanager.",),
    "buckets": ("storage.",),
}


def has_permission(role: str, permission: str) -> bool:
    """Whether *role* has *permission*; an unknown role has none."""
    return permission.casefold() in _CASEFOLDED_ROLES.get(role, frozenset())


def is_testable(permission: str, resource: str) -> bool:
    """Whether `testIamPermissions` accepts *permission* for *resource* (its full name).

    It accepts no wildcard, and only permissions of the resource's own API. A project accepts all permissions except
    those of organizations and folders.
    """
    if _PERMISSION.fullmatch(permission) is None:
        return False
    collection = resource.split("/")[-2] if "/" in resource else ""
    prefixes = ("iap.",) if "/iap_web/" in resource else _APPLICABLE.get(collection)
    if prefixes is None:
        return not permission.startswith(_ORGANIZATION_PERMISSIONS)
    return permission.startswith(tuple(f"{prefix.partition('.')[0]}." for prefix in prefixes))


def is_grantable(role: str, resource: str) -> bool:
    """Whether *role* can be granted on *resource* (its full name).

    As on Google, a role is grantable on a resource if it has any permission for that type of resource
    (cloud.google.com/iam/docs/viewing-grantable-roles). All roles are grantable on a project.
    """
    permissions: Iterable[str] = ROLES.get(role, ())
    collection = resource.split("/")[-2] if "/" in resource else ""
    prefixes = ("iap.",) if "/iap_web/" in resource else _APPLICABLE.get(collection)
    if prefixes is None:
        return role in ROLES
    return any(permission.startswith(prefixes) for permission in permissions)
